from __future__ import annotations

from handloom.stores.findings import Finding, counted, said_once, said_rows


def test_rows_that_follow_each_other_are_a_range() -> None:
    assert said_rows(()) == ""
    assert said_rows((7,)) == " (row 7)"
    assert said_rows(tuple(range(3, 63))) == " (60 rows: 3-62)"
    assert said_rows((1, 2, 5, 9, 10)) == " (5 rows: 1-2, 5, 9-10)"
    assert said_rows(tuple(range(0, 20, 2))) == " (10 rows: 0, 2, 4, 6, 8, 10, ...)"


def test_what_is_to_be_said_of_several_arrays_is_said_once() -> None:
    cameras = [Finding("warning", "time", f"frames/t_host_ns, c{i}", "does not ascend", (4,)) for i in range(5)]
    other = Finding("error", "time", "frames/t_host_ns, c0", "does not ascend", (9,))
    grave, joined = said_once([*cameras, other])
    assert grave == other
    assert joined.lines() == [
        "warning: frames/t_host_ns, c0; frames/t_host_ns, c1; frames/t_host_ns, c2 and 2",
        "  more: does not ascend (row 4)",
    ]
    assert counted([]) == "nothing found"
    assert counted([*cameras, other]) == "1 error, 5 warnings"
