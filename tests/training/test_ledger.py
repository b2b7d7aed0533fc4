from mmpt.training.ledger import Lines, read_lines


def test_lines_of_work_that_is_done_again_are_removed_on_resume(tmp_path):
    path = tmp_path / "ledger.jsonl"
    lines = Lines(path, 0)
    for step in range(5):
        lines.write(step, event="x")
    with path.open("a") as file:
        file.write('{"step": 1, "cut off by a k')
    Lines(path, 3).write(3, event="again")
    assert [(line["step"], line["event"]) for line in read_lines(path)] == [(0, "x"), (1, "x"), (2, "x"), (3, "again")]


def test_no_file_means_no_lines(tmp_path):
    assert read_lines(tmp_path / "none.jsonl") == []
