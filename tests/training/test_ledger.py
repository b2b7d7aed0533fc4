from mmpt.training.ledger import Lines, read_lines
from mmpt.training.pretrain import wind_back_others


def test_lines_of_work_that_is_done_again_are_removed_on_resume(tmp_path):
    path = tmp_path / "ledger.jsonl"
    lines = Lines(path, 0)
    for step in range(5):
        lines.write(step, event="x")
    with path.open("a") as file:
        file.write('{"step": 1, "cut off by a k')
    Lines(path, 3).write(3, event="again")
    assert [(line["step"], line["event"]) for line in read_lines(path)] == [(0, "x"), (1, "x"), (2, "x"), (3, "again")]


def test_ledgers_of_ranks_that_are_gone_are_wound_back_too(tmp_path):
    for rank in (1, 2):
        lines = Lines(tmp_path / f"ledger-rank{rank:05d}.jsonl", 0)
        for step in range(4):
            lines.write(step, event="x")
    wind_back_others(tmp_path, ranks=2, step=2)
    assert [len(read_lines(tmp_path / f"ledger-rank{rank:05d}.jsonl")) for rank in (1, 2)] == [4, 2]


def test_no_file_means_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []
