"""Hostile requests to change parameters of the fusion node."""

from __future__ import annotations

from hypothesis import strategies as st
from rcl_interfaces.msg import Parameter, ParameterType, ParameterValue

from hostile.texts import mostly, texts
from ivf_ros.parameters import PARAMETERS

_NAMES = (*(parameter.name for parameter in PARAMETERS), "class_names", "use_sim_time")
_INTEGERS = (0, 1, -1, 3, 1000, 2**31, 2**63 - 1, -(2**63))
_FLOATS = (0.0, 0.5, 1.0, -1.0, 99.0, 1e308, 5e-324, float("nan"), float("inf"), -float("inf"))


def names() -> st.SearchStrategy[str]:
    """Draw the name of a parameter, mostly of a declared one."""
    return mostly(st.sampled_from(_NAMES), texts())


def values() -> st.SearchStrategy[ParameterValue]:
    """Draw a value of any type, also of none and of one that does not exist."""
    integers = st.sampled_from(_INTEGERS) | st.integers(-(2**63), 2**63 - 1)
    floats = st.sampled_from(_FLOATS) | st.floats()
    by_type = {
        "BOOL": ("bool_value", st.booleans()),
        "INTEGER": ("integer_value", integers),
        "DOUBLE": ("double_value", floats),
        "STRING": ("string_value", mostly(st.sampled_from(_choices()), texts())),
        "BYTE_ARRAY": ("byte_array_value", st.lists(st.binary(min_size=1, max_size=1), max_size=5)),
        "BOOL_ARRAY": ("bool_array_value", st.lists(st.booleans(), max_size=5)),
        "INTEGER_ARRAY": ("integer_array_value", st.lists(integers, max_size=5)),
        "DOUBLE_ARRAY": ("double_array_value", st.lists(floats, max_size=5)),
        "STRING_ARRAY": ("string_array_value", st.lists(texts(), max_size=5)),
    }
    typed = [
        st.builds(
            ParameterValue,
            type=st.just(getattr(ParameterType, f"PARAMETER_{name}")),
            **{field: strategy},
        )
        for name, (field, strategy) in by_type.items()
    ]
    untyped = st.builds(ParameterValue, type=st.sampled_from((0, 10, 255)))
    scalars = st.one_of(typed[:4])
    return mostly(scalars, st.one_of(*typed, untyped))


def requests() -> st.SearchStrategy[list[Parameter]]:
    """Draw the parameters of one request."""
    return st.lists(st.builds(Parameter, name=names(), value=values()), min_size=1, max_size=5)


def _choices() -> list[str]:
    """Return all words that some parameter accepts."""
    return sorted({choice for parameter in PARAMETERS for choice in parameter.choices})
