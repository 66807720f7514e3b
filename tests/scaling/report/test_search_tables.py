import dataclasses

from moe_search.scaling.report.numbers import NO_VALUE
from moe_search.scaling.report.search_summary import KnobTruth, ScaleTruth, SearchSummary, Step, SurrogateScore
from moe_search.scaling.report.search_tables import scores_table, truth_table

NO_BREAK = "\u202f"
LOW, HIGH = ScaleTruth(150_000, 1_000_000, 0.71, 0.62), ScaleTruth(400_000, 2_500_000, 0.86, 0.74)
SUMMARY = SearchSummary(
    ended="the choice is settled",
    steps=[Step(20, 0.02, 0.004, 0.003)],
    truths=[
        KnobTruth(
            "granularity", 0.012, matters=True, decided_from=(400_000, 2_500_000), scales=(LOW, HIGH), full_scale=0.8
        ),
        KnobTruth("activation_ratio", 0.03, True, None, (LOW, LOW), None),
        KnobTruth("n_shared_experts", 0.001, False, None, (LOW, LOW), 0.5),
    ],
    trusted=0.8,
    validation="the law has the least error",
    scores=[SurrogateScore("the law", 0.53, 0.43)],
)


def test_a_knob_says_from_which_scale_it_is_decided() -> None:
    table = truth_table(SUMMARY)
    assert table is not None
    assert [column.title.replace(NO_BREAK, " ") for column in table.columns][3:5] == ["0.15 M × 1 M", "0.4 M × 2.5 M"]
    verdicts = [row.cells[2].text for row in table.rows]
    assert verdicts[1:] == ["not below the top", "within the noise of a seed"]
    assert verdicts[0].replace(NO_BREAK, " ") == "0.4 M × 2.5 M"
    share = table.rows[0].cells[3]
    assert (share.text[:2], share.small[:2], share.share) == ("71", "62", 0.71)
    assert [row.cells[-1].text for row in table.rows][1] == NO_VALUE


def test_what_is_not_there_has_no_table() -> None:
    empty = dataclasses.replace(SUMMARY, truths=[], scores=[])
    assert truth_table(empty) is None
    assert scores_table(empty) is None
    scores = scores_table(SUMMARY)
    assert scores is not None
    assert [cell.text for cell in scores.rows[0].cells] == ["the law", "0.53", "0.43"]
