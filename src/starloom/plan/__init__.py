"""How long things take and what they cost: compute and memory."""

from starloom.plan.base import Cluster, Cuts, Job
from starloom.plan.deploy import Deployment, Load, deploy
from starloom.plan.errors import BadPlan, DoesNotFit, IllegalCut, PlanError
from starloom.plan.explain import Node, explain
from starloom.plan.face import Plan, model_shape, plan, site_supernode, supernode_of
from starloom.plan.goodput import Goodput, goodput
from starloom.plan.legal import Limits
from starloom.plan.profiles import Profile, profile, profile_of, profiles
from starloom.plan.search import Found, search
from starloom.plan.serving import Layouts, Server, Serving
from starloom.plan.step import Batch, OperatorCost, StepCost, step_time
from starloom.plan.supernode import cluster_of
from starloom.plan.train import Estimate, evaluate

__all__ = [
    "BadPlan",
    "Batch",
    "Cluster",
    "Cuts",
    "Deployment",
    "DoesNotFit",
    "Estimate",
    "Found",
    "Goodput",
    "IllegalCut",
    "Job",
    "Layouts",
    "Limits",
    "Load",
    "Node",
    "OperatorCost",
    "Plan",
    "PlanError",
    "Profile",
    "Server",
    "Serving",
    "StepCost",
    "cluster_of",
    "deploy",
    "evaluate",
    "explain",
    "goodput",
    "model_shape",
    "plan",
    "profile",
    "profile_of",
    "profiles",
    "search",
    "site_supernode",
    "step_time",
    "supernode_of",
]
