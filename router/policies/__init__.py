"""Ways to choose a worker, one file each. Each is called as policy(request, pool, now_s) and returns candidates, the
first choice first; not all workers need be among them, but where the pool has any, somebody is."""

from collections.abc import Callable
from typing import Literal, get_args

from router.candidate import Candidate
from router.policies.least_loaded import least_loaded
from router.policies.power_of_two import power_of_two
from router.policies.prefix import prefix
from router.policies.round_robin import RoundRobin
from router.policies.session import Session
from router.pool import Pool
from router.request import RoutingRequest

Policy = Callable[[RoutingRequest, Pool, float], list[Candidate]]
PolicyName = Literal["prefix", "least_loaded", "power_of_two", "round_robin", "session"]


def make_policy(name: PolicyName) -> Policy:
    """The policy of this name, for one router. Raises ValueError for a name that is none."""
    match name:
        case "prefix":
            return prefix
        case "least_loaded":
            return least_loaded
        case "power_of_two":
            return power_of_two
        case "round_robin":
            return RoundRobin()
        case "session":
            return Session()
    raise ValueError(f"no policy is called {name!r}; there are {', '.join(get_args(PolicyName))}")
