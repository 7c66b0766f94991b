"""What a damaged disk, a broken transfer or a hostile hand may do to a file, for hypothesis."""

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

#: a test with pytest's fixtures, whose folder all cases share
WITHIN_A_TEST = settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
#: bytes that lie about sizes, end lines and text
_TELLING = st.sampled_from([b"\xff" * 8, b"\x00" * 4, b"\xff\xff\xff\x7f", b"\n", b'"', b"nan", b"../"])
#: where, how much is lost, and what stands there now
DAMAGE = st.lists(
    st.tuples(st.integers(0, 2**14), st.sampled_from([0, 1, 4, 2**14]), _TELLING | st.binary(max_size=8)),
    min_size=1,
    max_size=3,
)


def damaged(content: bytes, damage: list[tuple[int, int, bytes]]) -> bytes:
    """Return content with parts lost, added or overwritten."""
    for place, lost, new in damage:
        start = place % (len(content) + 1)
        content = content[:start] + new + content[start + lost :]
    return content
