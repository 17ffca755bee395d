"""The profiles by the names that they have on the command line."""

from collections.abc import Callable, Mapping

from cluster.loadtest.ask import Profile
from cluster.loadtest.profiles.cancellations import Cancellations
from cluster.loadtest.profiles.multi_turn import MultiTurn
from cluster.loadtest.profiles.rate_sweep import RateSweep
from cluster.loadtest.profiles.shared_prefix import SharedPrefix
from cluster.loadtest.profiles.trace import Trace
from cluster.loadtest.profiles.unique import Unique
from cluster.loadtest.settings import ProfileName, Settings

PROFILES: Mapping[ProfileName, Callable[[Settings], Profile]] = {
    "unique": Unique,
    "shared-prefix": SharedPrefix,
    "multi-turn": MultiTurn,
    "trace": Trace,
    "rate-sweep": RateSweep,
    "cancellations": Cancellations,
}


def profile_of(settings: Settings) -> Profile:
    """The profile that the settings name."""
    return PROFILES[settings.profile](settings)
