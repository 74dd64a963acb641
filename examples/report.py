"""The demo's pictures and HTML page: training curves as PNG, everything measured as one HTML file.

Every number and every sentence of the page is made from what the demo measured in the same run.
"""

import base64
import html
import io
import os
import platform
from dataclasses import dataclass

import data as sets
import tasks
import torch
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, MaxNLocator

import losskit

LIBRARIES = ("torch.nn", "losskit")


@dataclass(frozen=True)
class Times:
    """Median seconds by library, the median torch.nn / losskit ratio, and of how many timings."""

    seconds: dict
    ratio: float
    count: int


@dataclass(frozen=True)
class Summary:
    """The numbers of one task; the dictionaries are by library, `baselines` by name; `beside` is another task."""

    task: str
    loss: str
    beside: str | None
    steps: int
    test_samples: int
    batch_shape: tuple[int, ...]
    curves: dict
    final_losses: dict
    score_name: str
    scores: dict
    baselines: dict
    gradient_errors: dict
    batch: Times
    million: Times


@dataclass(frozen=True)
class Theme:
    """Colours of the figure; those of the page are in STYLE."""

    background: str
    text: str
    faint: str
    grid: str
    torch: str
    losskit: str


LIGHT = Theme("#ffffff", "#1c2128", "#66707c", "#e6e9ed", "#f5b58a", "#1f5fbf")
DARK = Theme("#171b21", "#e6e9ee", "#98a2ae", "#2b323b", "#a8623a", "#8fc1ff")


def duration(seconds):
    """Seconds in a unit that needs no leading zeros."""
    if seconds < 1e-3:
        return f"{seconds * 1e6:.1f} µs"
    return f"{seconds * 1e3:.2f} ms"


def relative_gap(a, b):
    """Difference of two numbers relative to the larger one."""
    return abs(a - b) / max(abs(a), abs(b), 1e-30)


def curve_gap(summary):
    """The largest relative gap between the two training curves, over all epochs."""
    return max(map(relative_gap, summary.curves["torch.nn"], summary.curves["losskit"]))


def draw_panel(axes, summary, theme):
    """One task: torch.nn as a broad band, losskit as a thin dashed line on top, so overlap shows."""
    axes.plot(summary.curves["torch.nn"], color=theme.torch, linewidth=6, solid_capstyle="round")
    axes.plot(summary.curves["losskit"], color=theme.losskit, linewidth=1.6, linestyle=(0, (4, 2)))
    values = summary.curves["torch.nn"]
    if min(values) > 0 and max(values) > 10 * min(values):
        axes.set_yscale("log", subs=())
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter("{x:g}")
    axes.xaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10], integer=True))
    axes.set_facecolor(theme.background)
    axes.grid(color=theme.grid, linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.tick_params(colors=theme.faint, length=0, labelsize=9, which="both")
    axes.margins(x=0.02)
    axes.set_title(summary.task, loc="left", color=theme.text, fontsize=11.5, fontweight="bold", pad=20)
    axes.text(0, 1.035, summary.loss, transform=axes.transAxes, color=theme.faint, fontsize=9.5)
    gap = f"largest gap: {difference(curve_gap(summary))}"
    axes.text(0.98, 0.95, gap, transform=axes.transAxes, color=theme.faint, fontsize=9.5, ha="right", va="top")


def draw_curves(summaries, theme, columns):
    """The figure with one panel per task, as PNG bytes."""
    rows = -(-len(summaries) // columns)
    size = (3.9 * columns, 2.95 * rows + 0.6)
    figure = Figure(figsize=size, facecolor=theme.background, layout="constrained")
    grid = figure.subplots(rows, columns, squeeze=False)
    figure.get_layout_engine().set(h_pad=0.12, w_pad=0.1)
    for axes, summary in zip(grid.flat, summaries, strict=False):
        draw_panel(axes, summary, theme)
    for axes in grid.flat[len(summaries) :]:
        axes.set_visible(False)
    for axes in grid[-1]:
        axes.set_xlabel("epoch", color=theme.faint, fontsize=9.5)
    band, line = grid[0][0].get_lines()
    figure.legend(
        [band, line], ["training loss with torch.nn", "with losskit"],
        loc="outside upper left", ncols=2, frameon=False, fontsize=10, labelcolor=theme.text,
    )  # fmt: skip
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def largest(numbers):
    """The largest number; unlike max(), NaN if any is NaN, so that a wrong gradient cannot hide."""
    return torch.tensor(numbers, dtype=torch.float64).max().item()


def difference(number):
    """A relative difference; none is none, not a power of ten."""
    return f"{number:.1e}" if number else "none"


def speed(times):
    """A ratio in words, for either side of 1."""
    ratio = f"{times.ratio:.2f}"
    return "as fast as torch.nn's" if ratio == "1.00" else f"{ratio} times as fast as torch.nn's"


def six_digits(number):
    """A loss as the table shows it."""
    return f"{number:#.6g}"


def baselines(summary, separator=", "):
    """The scores that need no training."""
    return separator.join(f"{name} {score}" for name, score in summary.baselines.items())


def shape_in_words(shape):
    """A batch's shape."""
    return "×".join(map(str, shape))


def sentence(summary, others):
    """What the task shows, from its numbers and those of the task to compare with alone."""
    torch_loss, losskit_loss = (summary.final_losses[name] for name in LIBRARIES)
    if torch_loss == losskit_loss:
        ending = f"both runs end at exactly the same training loss, {six_digits(torch_loss)}"
    elif six_digits(torch_loss) == six_digits(losskit_loss):
        ending = f"both runs end at a training loss of {six_digits(torch_loss)} to six digits"
    else:
        ending = (
            f"the runs end at training losses of {six_digits(torch_loss)} and {six_digits(losskit_loss)} "
            f"(relative gap {relative_gap(torch_loss, losskit_loss):.1e})"
        )
    beside = others.get(summary.beside)
    comparison = f"; in “{beside.task}” {scores(beside)}" if beside else ""
    return (
        f"After {summary.steps} steps {ending}. On the {summary.test_samples} test samples, {summary.score_name}: "
        f"{scores(summary)} ({baselines(summary)}){comparison}. losskit's loss is {speed(summary.million)} at a "
        f"million elements and {speed(summary.batch)} on the task's own {shape_in_words(summary.batch_shape)} batch."
    )


def scores(summary):
    """Both libraries' scores in words."""
    torch_score, losskit_score = (summary.scores[name] for name in LIBRARIES)
    if torch_score == losskit_score:
        return f"{torch_score} for both"
    return f"{torch_score} with torch.nn and {losskit_score} with losskit"


def headline(summaries):
    """The whole run in three sentences."""
    same = sum(summary.scores["torch.nn"] == summary.scores["losskit"] for summary in summaries)
    torch_worst, losskit_worst = (
        largest([summary.gradient_errors[name] for summary in summaries]) for name in LIBRARIES
    )
    errors = [[summary.gradient_errors[name] for name in LIBRARIES] for summary in summaries]
    closer, further = sum(a > b for a, b in errors), sum(a < b for a, b in errors)
    million = [summary.million.ratio for summary in summaries]
    batch = [summary.batch.ratio for summary in summaries]
    return (
        f"{len(summaries)} models were trained twice, once with each library's loss. The test result is the "
        f"same, to the digits shown, in {same} of {len(summaries)}. The largest error of a gradient, relative to "
        f"the largest gradient of its step, was {losskit_worst:.1e} with losskit and {torch_worst:.1e} with torch.nn; "
        f"losskit's was the smaller one in {closer} tasks, torch.nn's in {further}. torch.nn's time over "
        f"losskit's, for the loss alone: {min(million):.2f} to {max(million):.2f} at a million elements, "
        f"{min(batch):.2f} to {max(batch):.2f} on the tasks' own batches."
    )


STYLE = """
:root { color-scheme: light dark; --bg: #f4f6f8; --card: #ffffff; --text: #1c2128; --faint: #66707c;
  --line: #e1e5ea; --good: #14713d; --good-bg: #dff3e6; --bad: #9a4a00; --bad-bg: #fdebd8; }
@media (prefers-color-scheme: dark) { :root { --bg: #0f1216; --card: #171b21; --text: #e6e9ee;
  --faint: #98a2ae; --line: #2b323b; --good: #7fdca4; --good-bg: #16341f; --bad: #ffb877;
  --bad-bg: #3d2710; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--bg); color: var(--text); line-height: 1.55;
  font-family: system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1080px; margin: 0 auto; padding: 2.2rem 1.2rem 3rem; }
h1 { font-size: 1.7rem; margin: 0 0 .4rem; letter-spacing: -.01em; }
h2 { font-size: 1.15rem; margin: 2.2rem 0 .7rem; }
p, li { max-width: 75ch; }
.card { background: var(--card); border: 1px solid var(--line); border-radius: 12px; padding: 1rem; }
img { width: 100%; height: auto; display: block; }
table { width: 100%; border-collapse: collapse; font-variant-numeric: tabular-nums; font-size: .92rem; }
th { text-align: right; color: var(--faint); font-weight: 500; padding: .3rem .7rem .5rem;
  vertical-align: bottom; }
td { text-align: right; padding: .55rem .7rem; border-top: 1px solid var(--line); vertical-align: top;
  white-space: nowrap; }
th:first-child, td:first-child { text-align: left; padding-left: .2rem; white-space: normal; }
td small, .faint { color: var(--faint); }
td .pair { display: grid; grid-template-columns: auto auto; gap: 0 .7rem; justify-content: end; }
td .pair small { text-align: left; }
.ratio { display: inline-block; border-radius: 99px; padding: 0 .55rem; margin-top: .25rem;
  font-weight: 600; }
.even { background: var(--line); }
.faster { color: var(--good); background: var(--good-bg); }
.slower { color: var(--bad); background: var(--bad-bg); }
dl { display: grid; grid-template-columns: auto 1fr; gap: .25rem 1.2rem; margin: 0; }
dt { color: var(--faint); } dd { margin: 0; }
ul { padding-left: 1.1rem; margin: 0; } li { margin: .45rem 0; }
@media (max-width: 760px) {
  main { padding: 1.3rem .8rem 2rem; } h1 { font-size: 1.4rem; }
  thead { display: none; } table, tbody, tr, td { display: block; width: 100%; }
  tr { padding: .7rem 0; border-top: 1px solid var(--line); }
  tr:first-child { border-top: 0; padding-top: 0; }
  td, td:first-child { border: 0; padding: .22rem 0; display: flex; justify-content: space-between;
    gap: 1rem; }
  td:first-child { display: block; }
  td[data-label]::before { content: attr(data-label); color: var(--faint); white-space: normal;
    text-align: left; }
}
"""


def picture(images):
    """All four drawings inline; the browser picks by colour scheme and width."""

    def source(key):
        return "data:image/png;base64," + base64.b64encode(images[key]).decode()

    narrow, dark = "(max-width: 760px)", "(prefers-color-scheme: dark)"
    return (
        f'<picture><source media="{narrow} and {dark}" srcset="{source("narrow dark")}">'
        f'<source media="{narrow}" srcset="{source("narrow light")}">'
        f'<source media="{dark}" srcset="{source("wide dark")}">'
        f'<img src="{source("wide light")}" alt="Training curves of every task, both libraries"></picture>'
    )


def pair(values):
    """One value per library, labelled, as a small grid."""
    cells = "".join(f"<small>{name}</small><span>{html.escape(values[name])}</span>" for name in LIBRARIES)
    return f'<span class="pair">{cells}</span>'


def times_cell(times):
    """Both times and their ratio, coloured by which side of 1 it falls on, in the digits shown."""
    ratio = round(times.ratio, 2)
    kind = "even" if ratio == 1 else "faster" if ratio > 1 else "slower"
    values = pair({name: duration(times.seconds[name]) for name in LIBRARIES})
    return f'<div>{values}<span class="ratio {kind}">{times.ratio:.2f}×</span></div>'


def table(summaries):
    """The measured numbers; on a narrow screen the style sheet turns each row into a card."""
    heads = ["Final training loss", "Test", "Gradient error"]
    heads += ["Loss time, own batch", "Loss time, 1M elements"]
    rows = []
    for summary in summaries:
        score_note = f"<small>{summary.score_name}<br>{baselines(summary)}</small>"
        cells = [
            pair({name: six_digits(summary.final_losses[name]) for name in LIBRARIES}),
            f"<div>{pair(summary.scores)}{score_note}</div>",
            pair({name: difference(summary.gradient_errors[name]) for name in LIBRARIES}),
            times_cell(summary.batch),
            times_cell(summary.million),
        ]
        labelled = "".join(f'<td data-label="{head}">{cell}</td>' for head, cell in zip(heads, cells, strict=True))
        name = f"<strong>{html.escape(summary.task)}</strong><br><small>{summary.loss}</small>"
        rows.append(f"<tr><td>{name}</td>{labelled}</tr>")
    head = "".join(f"<th>{text}</th>" for text in ["", *heads])
    return f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"


def method(summaries):
    """How the numbers came about, as list items."""
    batch_steps = span([summary.batch.count for summary in summaries])
    million_steps = span([summary.million.count for summary in summaries])
    return f"""
<li>Both runs of a task start from the same weights and see the same batches in the same order. The optimiser
is Adam; a quarter of the data is held out for the test. “Guess” is the score of always answering with the
mean of the training targets, or with their most frequent class; “inputs” that of the nearest neighbours of the
inputs themselves; “untrained” that of the model before its training.</li>
<li>The rare digits are {", ".join(map(str, sets.RARE))}: the training part keeps {sets.RARE_SAMPLES} images of
each, the test part all. The weights of “weighted” make all classes count alike. Recall is the share of a digit's
images that is found, averaged over all digits and over the rare ones.</li>
<li>The embeddings have {tasks.EMBEDDING} numbers for an image; a test image is given the digit that most of its
{tasks.NEIGHBOURS} nearest training images have. The rows of digits are real images in a synthetic arrangement, 3 to
{sets.LONGEST} side by side; wrong labels are edits per label, wrong rows those that need any.</li>
<li>At every step both losses are given the prediction of the torch.nn run. The gradient error is the
largest absolute difference from the gradient of torch.nn's loss in float64, over the largest absolute gradient, the
worst of all steps.</li>
<li>At the same prediction both are timed, forward and backward of the loss alone: once untimed each, then
each as the first and as the second of a pair, the library that starts alternating from timing to timing. The
ratio is torch.nn's time over losskit's within two neighbouring timings, of which either library started one:
above 1 losskit is faster, below 1 torch.nn is. Number of threads: {torch.get_num_threads()}.</li>
<li>Shown are medians after warm-up, over {batch_steps} steps on the task's own batch and over {million_steps}
steps with the same rows repeated to about a million elements. Times and ratio are medians of their own, so
on a busy machine the ratio is not exactly the quotient of the times shown; the ratio is the number to
trust.</li>"""


def span(counts):
    """Smallest to largest, or the one number there is."""
    low, high = min(counts), max(counts)
    return str(low) if low == high else f"{low} to {high}"


def versions():
    """What ran, and on what."""
    return {
        "losskit": losskit.__version__,
        "torch": torch.__version__,
        "Python": platform.python_version(),
        "CPUs": str(os.cpu_count()),
        "Threads": str(torch.get_num_threads()),
        "System": f"{platform.system()} {platform.machine()}",
    }


def page(summaries, images):
    """The whole report as one HTML document without outside references."""
    others = {summary.task: summary for summary in summaries}
    shows = "".join(f"<li><strong>{html.escape(s.task)}.</strong> {sentence(s, others)}</li>" for s in summaries)
    facts = "".join(f"<dt>{name}</dt><dd>{html.escape(value)}</dd>" for name, value in versions().items())
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>losskit and torch.nn, side by side</title><style>{STYLE}</style></head><body><main>
<h1>losskit and torch.nn, side by side</h1>
<p>{headline(summaries)}</p>
<h2>Training curves</h2><div class="card">{picture(images)}</div>
<h2>Measured</h2><div class="card">{table(summaries)}</div>
<h2>What each task shows</h2><ul>{shows}</ul>
<h2>How it was measured</h2><ul>{method(summaries)}</ul>
<h2>Versions</h2><dl>{facts}</dl>
</main></body></html>
"""


def write(folder, summaries):
    """Write curves.png and report.html into `folder`; returns their paths."""
    images = {
        f"{width} {scheme}": draw_curves(summaries, theme, columns)
        for width, columns in (("wide", 3), ("narrow", 1))
        for scheme, theme in (("light", LIGHT), ("dark", DARK))
    }
    curves, document = folder / "curves.png", folder / "report.html"
    curves.write_bytes(images["wide light"])
    document.write_text(page(summaries, images), encoding="utf-8")
    return [curves, document]
