"""Made-up statements in English and Chinese, in several wordings each: for training and recall.

Every text is drawn from the lexicon below, written for this project. A statement is four concepts
and an identifier; its paraphrase says the same concepts in other words, or in the other language.
"""

import random
from collections.abc import Sequence
from dataclasses import dataclass

Synonyms = tuple[str, ...]

THINGS: tuple[tuple[Synonyms, Synonyms], ...] = tuple(
    (tuple(en.split("|")), tuple(zh.split("|")))
    for en, zh in (
        ("base station|cell site|radio site", "基站|站点|无线站"),
        ("router|routing node", "路由器|选路节点"),
        ("switch|fabric switch", "交换机|交换设备"),
        ("optical fibre|fiber strand", "光纤|光缆纤芯"),
        ("cable|cord", "线缆|电线"),
        ("power supply|PSU", "电源|供电单元"),
        ("battery|accumulator", "电池|蓄电池"),
        ("cooling fan|blower", "风扇|散热风机"),
        ("graphics card|GPU|accelerator", "显卡|加速卡"),
        ("processor|CPU", "处理器|中央处理单元"),
        ("memory module|DIMM", "内存条|存储颗粒"),
        ("disk|drive", "磁盘|硬盘"),
        ("server rack|cabinet", "机柜|机架"),
        ("data centre|computing hall", "数据中心|机房"),
        ("antenna|aerial", "天线|射频天线"),
        ("transceiver|optical module", "光模块|收发器"),
        ("gateway|entry proxy", "网关|入口代理"),
        ("database|data store", "数据库|数据仓"),
        ("cache|buffer store", "缓存|缓冲区"),
        ("queue|backlog", "队列|积压"),
        ("flight|plane trip", "航班|班机"),
        ("reservation|booking", "预订|订单"),
        ("passenger|traveller", "乘客|旅客"),
        ("luggage|baggage", "行李|箱包"),
        ("invoice|bill", "发票|账单"),
        ("contract|agreement", "合同|协议"),
        ("customer|client", "客户|用户"),
        ("supplier|vendor", "供应商|厂商"),
        ("warehouse|depot", "仓库|库房"),
        ("employee|staff member", "员工|职员"),
        ("pump|water pump", "水泵|泵机"),
        ("sensor|probe", "传感器|探头"),
        ("transformer|voltage converter", "变压器|变电设备"),
        ("compressor|air compressor", "压缩机|空压机"),
        ("software release|version", "软件版本|发行版"),
        ("configuration|settings", "配置|设置"),
        ("certificate|credential", "证书|凭证"),
        ("password|passphrase", "密码|口令"),
        ("model weights|checkpoint", "模型权重|检查点"),
        ("training job|learning run", "训练任务|学习作业"),
    )
)
ASPECTS: tuple[tuple[Synonyms, Synonyms], ...] = tuple(
    (tuple(en.split("|")), tuple(zh.split("|")))
    for en, zh in (
        ("temperature|heat level", "温度|热度"),
        ("voltage|electric potential", "电压|电位"),
        ("latency|delay", "时延|延迟"),
        ("throughput|transfer rate", "吞吐量|传输速率"),
        ("packet loss|dropped frames", "丢包|帧丢失"),
        ("error rate|failure ratio", "错误率|出错比例"),
        ("utilisation|load", "利用率|负荷"),
        ("price|cost", "价格|费用"),
        ("capacity|maximum size", "容量|最大规模"),
        ("signal strength|received power", "信号强度|接收功率"),
        ("attenuation|optical loss", "衰减|光损耗"),
        ("humidity|moisture", "湿度|水分"),
        ("vibration|shaking", "振动|抖动"),
        ("noise level|loudness", "噪声|音量"),
        ("weight|mass", "重量|质量"),
        ("owner|responsible person", "负责人|责任人"),
        ("address|location", "地址|位置"),
        ("due date|deadline", "到期日|截止日期"),
        ("serial number|unit identifier", "序列号|编号"),
        ("status|condition", "状态|情况"),
        ("energy use|power draw", "能耗|耗电量"),
        ("speed|velocity", "速度|速率"),
        ("pressure|compression force", "压力|压强"),
        ("duration|time taken", "时长|耗时"),
    )
)
STATES: tuple[tuple[Synonyms, Synonyms], ...] = tuple(
    (tuple(en.split("|")), tuple(zh.split("|")))
    for en, zh in (
        ("rises|climbs|goes up", "上升|升高"),
        ("falls|drops|goes down", "下降|降低"),
        ("exceeds the limit|is over the threshold", "超过阈值|越限"),
        ("is normal|is as expected", "正常|符合预期"),
        ("is missing|cannot be found", "缺失|找不到"),
        ("is stable|stays constant", "稳定|保持不变"),
        ("fluctuates|jitters", "波动|起伏"),
        ("was corrected|was repaired", "已修正|已修复"),
        ("was cancelled|was called off", "已取消|已撤销"),
        ("is confirmed|is verified", "已确认|已核实"),
        ("is disputed|is contested", "有争议|存疑"),
        ("is unknown|has not been measured", "未知|尚未测量"),
    )
)
WHENS: tuple[tuple[Synonyms, Synonyms], ...] = tuple(
    (tuple(en.split("|")), tuple(zh.split("|")))
    for en, zh in (
        ("in the morning|before noon", "上午|早晨"),
        ("at night|after dark", "夜间|深夜"),
        ("yesterday|the day before", "昨天|前一日"),
        ("every week|weekly", "每周|每星期"),
        ("during maintenance|while being serviced", "维护期间|检修时"),
        ("after the upgrade|once it was updated", "升级之后|更新后"),
        ("in the north|on the northern side", "北部|北侧"),
        ("in the south|on the southern side", "南部|南侧"),
        ("on the roof|at the top of the building", "楼顶|屋顶"),
        ("in the basement|below ground", "地下室|地下"),
    )
)
KINDS = (THINGS, ASPECTS, STATES, WHENS)
LANGUAGES = ("en", "zh")


@dataclass(frozen=True, slots=True)
class Statement:
    """One thing that is so, and how to say it."""

    concepts: tuple[int, int, int, int]
    place: str

    def said(self, rng: random.Random, language: str, avoid: str = "") -> str:
        """In drawn words; those that stand in `avoid` are not used again where others are."""
        at = LANGUAGES.index(language)
        thing, aspect, state, when = (
            _choose(rng, kind[concept][at], avoid)
            for kind, concept in zip(KINDS, self.concepts, strict=True)
        )
        if language == "zh":
            return f"{when}{self.place}的{thing}的{aspect}{state}"
        return f"the {aspect} of the {thing} {self.place} {state} {when}"

    def asked(self, rng: random.Random, language: str, avoid: str = "", reuse: float = 0.0) -> str:
        """A question for it, without the identifier; a word of `avoid` comes again by `reuse`."""
        at = LANGUAGES.index(language)
        thing, aspect, state, when = (
            _choose(rng, kind[concept][at], "" if reuse and rng.random() < reuse else avoid)
            for kind, concept in zip(KINDS, self.concepts, strict=True)
        )
        if language == "zh":
            return f"{when}哪个{thing}{state}？看它的{aspect}"
        return f"{when}, which {thing} has {aspect} that {state}?"


def statements(rng: random.Random, count: int) -> list[Statement]:
    """Different in their concepts, as long as there are enough of them."""
    seen: dict[tuple[int, ...], Statement] = {}
    room = len(THINGS) * len(ASPECTS) * len(STATES) * len(WHENS)
    while len(seen) < min(count, room):
        drawn = tuple(rng.randrange(len(kind)) for kind in KINDS)
        a, b, c, d = drawn
        name = "".join(rng.choice("ABCDEFGHKLMNPQRSTUVWXYZ") for _ in range(2))
        seen.setdefault(drawn, Statement((a, b, c, d), f"{name}{rng.randrange(10, 999)}"))
    return list(seen.values())


def _choose(rng: random.Random, words: Sequence[str], avoid: str) -> str:
    fresh = [it for it in words if it not in avoid]
    return rng.choice(fresh or list(words))
