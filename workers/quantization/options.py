"""What `raydix quantize` can be asked for."""

from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from workers.validation import RequestError

Method = Literal["rtn", "gptq", "awq", "int8"]
Granularity = Literal["tensor", "channel", "group"]
Search = Literal["minmax", "mse", "percentile", "kl"]
CALIBRATED = ("gptq", "awq")


@dataclass(frozen=True)
class QuantizeOptions:
    """How matrices are to be rounded.

    Attributes:
        method: rtn rounds each weight to the nearest level; int8 does so to 8 bits; gptq makes up for the error of each
            column in those after it; awq scales up the inputs that matter.
        bits: of a level.
        granularity: which weights share a scale: all, those of an output channel, or `group_size` of a channel.
        group_size: 0 unless the granularity is "group".
        symmetric: whether the middle level stands for zero in every group, or each has a zero point of its own.
        search: how the range of the levels is chosen (`workers.quantization.ranges`).
    """

    method: Method
    bits: int
    granularity: Granularity
    group_size: int
    symmetric: bool
    search: Search

    def __post_init__(self) -> None:
        for name, choices in (("method", Method), ("granularity", Granularity), ("search", Search)):
            value = getattr(self, name)
            if value not in get_args(choices):
                raise RequestError(f"{name} is {value!r}; it must be one of {', '.join(get_args(choices))}")
        if self.bits not in (4, 8):
            raise RequestError(f"bits is {self.bits}; 4 and 8 are known")
        if self.method == "int8" and self.bits != 8:
            raise RequestError(f"int8 has 8 bits, not {self.bits}; take rtn, gptq or awq for others")
        if (self.granularity == "group") != (self.group_size != 0):
            raise RequestError(f"granularity {self.granularity} and group_size {self.group_size} contradict each other")
        if self.group_size < 0 or self.group_size % 2:
            raise RequestError(f"group_size is {self.group_size}; it must be even: try 128, 64 or 32")

    @property
    def needs_calibration(self) -> bool:
        """Whether the method looks at activations."""
        return self.method in CALIBRATED

    def as_dict(self) -> dict[str, Any]:
        """All but the method, for the manifest."""
        return {name: value for name, value in asdict(self).items() if name != "method"}


def choose_options(
    method: Method,
    bits: int | None = None,
    granularity: Granularity | None = None,
    group_size: int | None = None,
    symmetric: bool | None = None,
    search: Search | None = None,
) -> QuantizeOptions:
    """Options with what was not said chosen by the method: int8 is symmetric with a scale for each output channel, the
    others have 4 bits in asymmetric groups of 128, with the range of the least error where inputs are known. Raises
    RequestError for values that cannot be.
    """
    int8 = method == "int8"
    if granularity is None:
        granularity = "channel" if int8 and group_size is None else "group"
    if group_size is None:
        group_size = 128 if granularity == "group" else 0
    elif group_size < 1:
        raise RequestError(f"group_size is {group_size}; for larger units than groups there is --granularity")
    return QuantizeOptions(
        method=method,
        bits=bits if bits is not None else 8 if int8 else 4,
        granularity=granularity,
        group_size=group_size,
        symmetric=symmetric if symmetric is not None else int8,
        search=search or ("mse" if method in CALIBRATED else "minmax"),
    )
