"""The page as a whole: one HTML file that needs nothing else, not even a network."""

from collections.abc import Sequence
from pathlib import Path

from mmpt.downstream.pretrained import Pretrained, load_pretrained
from mmpt.errors import MmptError
from mmpt.report.curves import curves_section, headline
from mmpt.report.diagnoses import diagnoses_section
from mmpt.report.experts import experts_section
from mmpt.report.gallery import reconstructions_section
from mmpt.report.markup import Html, element, join
from mmpt.report.probes import probes_section
from mmpt.report.results import ledger_section, parameters_section, record_section
from mmpt.training.ledger import read_lines
from mmpt.training.run import load_recipe

STYLE = Path(__file__).with_name("style.css")
# The browser is told to fetch nothing and to run nothing, whatever the data may hold.
POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(run: Path) -> Path:
    """Write `run/report.html`, as a whole or not at all; it says what is missing.

    Raises:
        CheckpointError: `run` is not a run folder.
        ConfigError: its recipe can't be read, for example because it names parts that are not installed.
    """
    return publish(run, _content(run))


def publish(run: Path, content: Sequence[Html]) -> Path:
    """Put a page into a folder, as a whole or not at all."""
    body = element("body", element("main", *content))
    file, staged = run / "report.html", run / ".report.html.staged"
    staged.write_text(f"<!DOCTYPE html>\n{element('html', _head(run), body, lang='en')}\n", encoding="utf-8")
    staged.replace(file)
    return file


def _content(run: Path) -> list[Html]:
    recipe, lines = load_recipe(run), read_lines(run / "metrics.jsonl")
    pretrained = _loaded(run)
    return [
        headline(run, recipe, lines),
        curves_section(recipe, lines),
        experts_section(lines),
        reconstructions_section(pretrained),
        probes_section(run),
        diagnoses_section(run),
        ledger_section(run),
        parameters_section(pretrained),
        record_section(run),
    ]


def _loaded(run: Path) -> Pretrained | str:
    try:
        return load_pretrained(run)
    except (MmptError, OSError) as error:
        return str(error)


def _head(run: Path) -> Html:
    metas = (
        '<meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
    )
    style = Html(STYLE.read_text(encoding="utf-8"))
    title = element("title", f"{run.resolve().name}: report")
    return element("head", join([Html(metas), title, element("style", style)]))
