"""What this gateway shares with others: its worker table and its tenants' accounts."""

from collections.abc import Mapping, Sequence

from starloom.serve.gateway.quota import Quotas
from starloom.serve.peers import Counts, Spent
from starloom.serve.schedule import WorkerTable


class SharedView:
    """The `peers.View` of a gateway."""

    def __init__(self, table: WorkerTable, quotas: Quotas) -> None:
        self._table = table
        self._quotas = quotas

    def own(self) -> Mapping[str, Counts]:
        return {name: Counts(*counts) for name, counts in self._table.own().items()}

    def changed(self) -> Mapping[str, Counts]:
        return {name: Counts(*counts) for name, counts in self._table.changed().items()}

    def others(self, worker: str, counts: Counts) -> None:
        self._table.others(worker, counts)

    def seen(self, worker: str, keys: Sequence[bytes]) -> None:
        self._table.sent(worker, keys)

    def spent(self) -> Mapping[str, Spent]:
        return self._quotas.spent()

    def others_spent(self, tenant: str, more: Spent) -> None:
        self._quotas.others_spent(tenant, more)
