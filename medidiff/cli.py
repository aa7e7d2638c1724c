"""The command line: one function a verb, which parses, calls the package and prints.

The verbs lie in the modules cli_*, the few that need no model here. Nothing heavy is imported
before a verb runs, so that `--help` answers at once.
"""

from __future__ import annotations

import errno
import os
import sys
import traceback
import warnings
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from medidiff import (
    cli_cache,
    cli_dicom,
    cli_judge,
    cli_manifest,
    cli_models,
    cli_privacy,
    cli_training,
    cli_work,
)
from medidiff.cli_options import Seed
from medidiff.errors import MedidiffError

INTERRUPTED = 130
FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
NOTICE = "Research only: not a medical device, not for diagnosis."
app = typer.Typer(
    help=f"Diffusion priors for medical images: train, track in MLflow, put to work. {NOTICE}",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.add_typer(cli_manifest.app, name="manifest")
app.command()(cli_dicom.to_dicom)
cli_privacy.add_to(app)
app.add_typer(cli_cache.app, name="cache")
for verb in (
    cli_training.plan,
    cli_training.check,
    cli_training.train,
    cli_work.sample,
    cli_work.run,
    cli_judge.benchmark,
    cli_judge.evaluate,
    cli_models.models,
    cli_models.register,
    cli_models.export,
    cli_models.import_bundle,
    cli_models.gamma,
    cli_models.average,
    cli_models.sync,
):
    app.command()(verb)


@app.command()
def demo(
    folder: Annotated[Path, typer.Option(help="Folder for everything that the demo makes")] = Path(
        "medidiff-demo"
    ),
) -> None:
    """The main job in a few minutes on a CPU, on generated head phantoms: no data, no GPU."""
    from medidiff import api

    typer.echo(api.demo(folder, progress="bars").text)


@app.command()
def phantoms(
    out: Annotated[Path, typer.Argument(help="New folder for the images", metavar="OUT")],
    kind: Annotated[
        Literal["head", "thorax"], typer.Option(help="Like T1-weighted MR, or CT in HU")
    ] = "head",
    dimensions: Annotated[int, typer.Option(help="2: a slice a subject; 3: a volume")] = 2,
    size: Annotated[int, typer.Option(help="Voxels along each axis")] = 128,
    count: Annotated[int, typer.Option(help="Subjects")] = 50,
    share: Annotated[
        list[str] | None,
        typer.Option(
            help="e.g. train=0.8; repeat for each (default: train 0.8, val 0.1, test 0.1)"
        ),
    ] = None,
    lesions: Annotated[
        list[str] | None,
        typer.Option(
            help="hyperintense, hypointense, same-intensity or mass-effect; repeat for more "
            "(default: none)"
        ),
    ] = None,
    lesion_share: Annotated[float, typer.Option(help="Share of subjects with lesions")] = 0.5,
    healthy: Annotated[
        list[str] | None, typer.Option(help="Split without lesions, e.g. train; repeat for more")
    ] = None,
    coils: Annotated[
        int, typer.Option(help="Also write k-space of so many receiver coils (heads)")
    ] = 0,
    format: Annotated[Literal["nifti", "dicom"], typer.Option(help="Of the images")] = "nifti",
    seed: Seed = 0,
) -> None:
    """Draw heads or chests whose truth is known: images, masks, and a manifest with splits."""
    from medidiff import api

    manifest = api.phantoms(
        out,
        kind=kind,
        dimensions=dimensions,
        size=size,
        count=count,
        shares=cli_manifest.shares_of(share),
        lesions=lesions or (),
        lesion_share=lesion_share,
        healthy=healthy or (),
        coils=coils,
        format=format,
        seed=seed,
        progress="bars",
    )
    typer.echo(f"Manifest: {manifest}")
    typer.echo("Drawn, not scanned: nothing measured on them says anything about patients.")


@app.command()
def doctor(
    json_file: Annotated[
        Path | None, typer.Option("--json", help="Write what was found to this file, too")
    ] = None,
) -> None:
    """Check the installed package against exact solutions and recordings, and the machine."""
    from medidiff import api

    found = api.doctor(json_file=json_file, progress="bars")
    typer.echo(found.text)
    if found.faults:
        raise typer.Exit(1)


@app.command()
def schema() -> None:
    """Print the JSON schema of a configuration, for editors."""
    import json

    from medidiff import api

    typer.echo(json.dumps(api.schema(), indent=1, sort_keys=True))


def _print_version(asked: bool) -> None:
    if asked:
        from importlib import metadata

        typer.echo(metadata.version("medidiff"))
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            callback=_print_version,
            is_eager=True,  # before a missing command is complained of
            help="Print the version and stop",
        ),
    ] = False,
) -> None:
    pass


def main() -> None:
    """Run the command line: exit code 2 for what a user can mend, 75 for a run stopped on
    request, 130 for anything else that was stopped (Ctrl-C), 1 for a defect of ours or where a
    check's answer is no."""
    _tell_warnings()
    try:
        app()
    except SystemExit as ended:
        if ended.code == INTERRUPTED:
            print("medidiff: stopped (Ctrl-C); what was begun is not whole", file=sys.stderr)
        raise
    except MedidiffError as error:
        _tell(error)
        sys.exit(2)
    except Exception as error:
        # training.stop.Stopped, not imported here for its weight
        if getattr(error, "killed", False):
            print(f"medidiff: {error}", file=sys.stderr)
            sys.exit(75)  # EX_TEMPFAIL: run again with --resume
        if refused := _refused_by_the_disc(error):
            print(
                f"medidiff: nothing more can be written ({refused}): make room, or name another "
                "place, and run the command again",
                file=sys.stderr,
            )
            sys.exit(2)
        _tell_defect(error)
        sys.exit(1)


def _refused_by_the_disc(error: BaseException | None) -> str | None:
    """What a full or read-only disc said, where it is behind an error: libraries raise errors of
    their own from it."""
    while error is not None:
        for number in FULL:
            if getattr(error, "errno", None) == number or os.strerror(number) in str(error):
                return os.strerror(number)
        error = error.__cause__ or error.__context__
    return None


def _tell_warnings() -> None:
    """Warnings of ours look like our errors, each once; those of libraries stay as Python shows
    them."""
    package, others = Path(__file__).parent, warnings.showwarning
    told: set[str] = set()

    def show(message: Warning | str, category: type[Warning], filename: str, *rest: Any) -> None:
        ours = category is UserWarning and Path(filename).is_relative_to(package)
        if ours and str(message) not in told:
            told.add(str(message))
            print(f"medidiff: warning: {message}", file=sys.stderr)
        elif not ours:
            others(message, category, filename, *rest)

    warnings.showwarning = show


def _tell(error: MedidiffError) -> None:
    """The message; what may name files goes to a log that only its owner can read."""
    print(f"medidiff: {error}", file=sys.stderr)
    if error.private:
        from medidiff.data.privacy import keep_private

        log = error.private_log or keep_private(error.private)
        print(f"medidiff: names are in {log}", file=sys.stderr)


def _tell_defect(error: Exception) -> None:
    """Where it happened; what the error says may name a file and goes to the private log."""
    from medidiff.data.privacy import keep_private

    log = keep_private("".join(traceback.format_exception(error)))
    print("".join(traceback.format_tb(error.__traceback__)), end="", file=sys.stderr)
    print(
        f"medidiff: a defect of the program ({type(error).__name__}). What it said is in {log}; "
        "please report it, without names of patients",
        file=sys.stderr,
    )


if __name__ == "__main__":
    main()
