"""`fastcam vqa`."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from fastcam.cli import options
from fastcam.cli.errors import SOME_FAILED, plain_errors, say
from fastcam.cli.generate import generated
from fastcam.vqa.settings import VQASettings

if TYPE_CHECKING:
    from fastcam.vqa import Accuracy

app = typer.Typer(
    help="Answer questions about pictures.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)

Source = Annotated[
    Path,
    typer.Argument(metavar="QUESTIONS", help="VQA's questions (.json), or .csv with columns image, question, answer."),
]
Annotations = Annotated[Path | None, typer.Option(help="VQA's annotations (.json), the answers to QUESTIONS.")]
Images = Annotated[Path | None, typer.Option(help="Folder of the pictures [beside QUESTIONS].")]
Features = Annotated[Path | None, typer.Option(metavar="FILE", help="Parquet file that keeps the pictures' features.")]
Model = Annotated[Path, typer.Argument(metavar="MODEL", help="Folder that fastcam vqa fit wrote.")]


@app.command()
@plain_errors()
@generated
def fit(
    source: Source,
    out: Annotated[Path, typer.Option(help="Folder for the model.")],
    network: options.FramedNetworkOptions,
    settings: VQASettings,
    annotations: Annotations = None,
    images: Images = None,
    weights: options.Weights = None,
    arch: options.Arch = None,
    features: Features = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an earlier model.")] = False,
    device: options.Device = None,
) -> None:
    """Learn to answer questions, from words and from what a network pools of the picture.

    OUT/network.safetensors is an ordinary checkpoint, whose classes are the answers. Malformed questions and damaged
    pictures are named and left out; the exit code is 3 then.
    """
    from fastcam import vqa

    if not overwrite and (out / "words.safetensors").exists():
        raise FileExistsError(f"{out} has a model already: choose another folder, or --overwrite it")
    bad: list[tuple[str, str]] = []
    data = vqa.load(source, annotations, images=images, bad=bad)
    model, config = network.load(weights, arch)
    model = model.to(device or options.default_device())
    found = vqa.fit(data, model, config=config, features=features, settings=settings, bad=bad)
    found.save(out)
    known = sum(question.answer in set(found.answers) for question in data)
    print(f"{len(data)} questions about {len(data.pictures)} pictures; {len(found.words)} words")
    print(f"{len(found.answers)} answers, those to {known / len(data):.1%} of the questions; model in {out}")
    _end(bad)


@app.command()
@plain_errors()
def answer(
    path: Model,
    image: Annotated[Path, typer.Argument(metavar="PICTURE", help="Picture to ask about.")],
    question: Annotated[str, typer.Argument(metavar="QUESTION", help="What to ask, in quotes.")],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Figure to write: picture, maps, words (.png, .svg, .pdf).")
    ] = None,
    top_k: Annotated[int, typer.Option(min=1, help="So many answers, the most probable first.")] = 1,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: options.Device = None,
) -> None:
    """Answer a question about a picture, and tell what each word and the picture add to the answer."""
    from fastcam import drawing, vqa

    model = vqa.VQA.load(path)
    model.network.to(device or options.default_device())
    found = model.best(image, question, top_k)
    if as_json:
        print(json.dumps([{name: value for name, value in one._asdict().items() if name != "map"} for one in found]))
    else:
        for one in found:
            parts = [*one.words.items(), ("[picture]", one.picture), ("[bias]", one.bias)]
            added = ", ".join(f"{name} {value:+.2f}" for name, value in parts)
            say(f"{one.text} {one.probability:.1%} ({added})")
    if unknown := found[0].unknown:
        say(f"fastcam: words that the model does not know: {', '.join(unknown)}", error=True)
    if out is not None:
        drawing.save(vqa.figure(image, found), out)


@app.command()
@plain_errors()
def evaluate(
    path: Model,
    source: Source,
    annotations: Annotations = None,
    images: Images = None,
    features: Features = None,
    results: Annotated[
        Path | None, typer.Option(metavar="FILE", help="JSON file of all answers, as VQA's server takes it.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: options.Device = None,
) -> None:
    """Answer all questions, and compute VQA's accuracy where people's answers are known.

    Malformed questions and damaged pictures are named and left out; the exit code is 3 then.
    """
    from fastcam import vqa

    bad: list[tuple[str, str]] = []
    data = vqa.load(source, annotations, images=images, bad=bad)
    model = vqa.VQA.load(path)
    model.network.to(device or options.default_device())
    answers = model.predict(data, features=features, bad=bad)
    if results is not None:
        vqa.write_results(results, answers)
    answered = [place for place, question in enumerate(data) if question.id in answers]
    if any(data[place].answers for place in answered):
        _show(vqa.score(data.subset(answered), answers), as_json)
    elif results is None:
        raise ValueError(f"{source} has no answers to compare with: give --annotations, or --results to write answers")
    _end(bad)


def _show(found: "Accuracy", as_json: bool) -> None:
    if as_json:
        print(json.dumps(found._asdict()))
        return
    print(f"VQA accuracy {found.overall:.2%} of {found.questions} questions")
    for groups in (found.by_answer_type, found.by_question_type):
        for kind, value in groups.items():
            say(f"  {kind} {value:.2%}")


def _end(bad: list[tuple[str, str]]) -> None:
    """Name what was left out."""
    for id, reason in bad:
        say(f"fastcam: {id}: {reason}", error=True)
    if bad:
        raise typer.Exit(SOME_FAILED)
