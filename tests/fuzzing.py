"""Inputs changed at random, in a child process that has little memory and little time for each.

``python fuzzing.py KIND FIRST COUNT FOLDER`` tries cases FIRST, FIRST + 1, ... of a kind and prints
a JSON line for each that ends in anything but success or an error of ours. A case is decided by its
kind and number alone.
"""

from __future__ import annotations

import json
import logging
import random
import resource
import signal
import subprocess
import sys
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

SECONDS = 10
"""Of the processor: other work on the machine does not count."""
SPARE_BYTES = 2**30
TOKENS = [
    b"\0",
    b'"',
    b"'",
    b"\t",
    b"\n",
    b"\r",
    b",",
    b"NaN",
    b"1e999",
    b"-1",
    b"../..",
    b"{",
    b"[",
]
TOKENS += [
    b"9" * 400,
    b"\xff\xfe",
    b"\xef\xbb\xbf",
    "é".encode(),
    b"[" * 5000,
    b"GT",
    b"#",
    b"=",
    b".",
]
VALUES: list[Any] = [None, True, -1, 0, 2**31, 2**63, 10**30, 1.5, -0.0, "", "x", "../x", [], {}]
VALUES += [
    [1],
    [10**12, 10**12],
    ["a"] * 50,
    {"name": "pickle"},
    "int64",
    "<=20",
    [[[]]],
    {"a": None},
]


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Bytes with one to three random changes."""
    for _ in range(rng.choice([1, 1, 1, 2, 3])):
        at, to = sorted(rng.randrange(len(data) + 1) for _ in range(2))
        to = min(to, at + rng.choice([1, 1, 8, 200]))
        change = rng.randrange(7)
        if change == 0 and data:
            flipped = bytearray(data)
            for _ in range(rng.choice([1, 1, 4, 16])):
                flipped[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            data = bytes(flipped)
        elif change == 1:
            data = data[:at]
        elif change == 2:
            data = data[:at] + data[to:]
        elif change == 3:
            data = data[:to] + data[at:]
        elif change == 4:
            data = data[:at] + rng.choice(TOKENS) + data[at:]
        elif change == 5:
            data = data[:at] + rng.choice(TOKENS) + data[to:]
        else:
            data = data[:at] + rng.randbytes(rng.choice([1, 4, 64])) + data[to:]
    return data


def mutated_json(data: bytes, rng: random.Random) -> bytes:
    """JSON with one or two values replaced, removed or put elsewhere."""
    content = json.loads(data)
    for _ in range(rng.choice([1, 1, 2])):
        if not (places := list(_places(content))):
            break
        parent, key = rng.choice(places)
        change = rng.randrange(4)
        if change == 0 and isinstance(parent, dict):
            parent.pop(key, None)
        elif change == 1:
            other, there = rng.choice(places)
            parent[key] = json.loads(json.dumps(other[there]))
        else:
            parent[key] = rng.choice(VALUES)
    return json.dumps(content).encode()


def _places(content: Any) -> Iterator[tuple[Any, Any]]:
    keys = content if isinstance(content, dict) else range(len(content))
    for key in keys:
        yield content, key
        if isinstance(content[key], dict | list):
            yield from _places(content[key])


def mutate_folder(folder: Path, names: list[str], rng: random.Random) -> None:
    """Change one file of a folder: its bytes, its JSON values, its place or its being there."""
    name = rng.choice(names)
    file, data = folder / name, (folder / name).read_bytes()
    change = rng.randrange(10)
    if change == 0:
        file.unlink()
    elif change == 1:
        file.write_bytes((folder / rng.choice(names)).read_bytes())
    elif name.endswith("json") and change < 8:
        file.write_bytes(mutated_json(data, rng))
    else:
        file.write_bytes(mutated(data, rng))


@contextmanager
def restored(folder: Path) -> Iterator[None]:
    """Put back all files of a folder at the end of the block."""
    before = {file: file.read_bytes() for file in folder.rglob("*") if file.is_file()}
    yield
    for file in folder.rglob("*"):
        if file.is_file() and file not in before:
            file.unlink()
    for file, data in before.items():
        if not file.is_file() or file.read_bytes() != data:
            file.write_bytes(data)


def store(folder: Path) -> Callable[[random.Random], None]:
    """A genotype store in ``store.zarr``."""
    from mrscale.store.reader import open_dataset, open_store
    from mrscale.store.schema import DOSAGE, SPECS
    from mrscale.store.verify import verify
    from mrscale.workflow.describing import describe

    path = folder / "store.zarr"
    names = sorted(str(f.relative_to(path)) for f in path.rglob("*") if f.is_file())
    whole = open_store(path)
    expected = {name: whole.array(name) for name in SPECS}

    def look(read: Callable[[Any], Any]) -> Any:
        return attempt(lambda: read(path))

    def case(rng: random.Random) -> None:
        mutate_folder(path, names, rng)
        look(lambda path: describe(path).summary())
        look(lambda path: {name: open_store(path).array(name) for name in SPECS})
        look(lambda path: open_dataset(path).sizes)
        if sound := look(lambda path: verify(path, workers=0)):
            for name in (DOSAGE, "exposure", "sample_id"):
                assert sound.array(name).tolist() == expected[name].tolist(), name

    return case


def study(folder: Path) -> Callable[[random.Random], None]:
    """A study file in ``study.toml``."""
    from mrscale.study_file import load_study

    file = folder / "study.toml"

    def case(rng: random.Random) -> None:
        mutate_folder(folder, ["study.toml"], rng)
        attempt(lambda: load_study(file))

    return case


def tables(folder: Path) -> Callable[[random.Random], None]:
    """Tables of people, ancestry, kinship, exclusions and instruments."""
    from mrscale.study_file import load_study
    from pipelines import instruments, people

    study = load_study(folder / "study.toml")
    names = ["people.tsv", "ancestry.tsv", "kinship.tsv", "exclude.tsv", "instruments.tsv"]
    ids = [line.split("\t")[0] for line in (folder / "people.tsv").read_text().splitlines()[1:]]

    def case(rng: random.Random) -> None:
        mutate_folder(folder, names, rng)
        found = attempt(lambda: people.read_phenotypes(study))
        if found is not None:
            attempt(lambda: people.arrange(found, ids, num_folds=2, seed=0))
        attempt(lambda: instruments.read_instruments(study.instruments, None))

    return case


def vcf(folder: Path) -> Callable[[random.Random], None]:
    """Headers of VCF files, plain and bgzipped, as they are looked at before Spark starts."""
    from mrscale.config import Genotypes
    from pipelines import sources

    def case(rng: random.Random) -> None:
        name = rng.choice(["genotypes.vcf", "genotypes.vcf.bgz"])
        mutate_folder(folder, [name], rng)
        genotypes = Genotypes(vcf=(str(folder / name),))
        found = attempt(lambda: sources.find_files(genotypes))
        if found is not None:
            attempt(lambda: sources.measure(genotypes, found))

    return case


def run(folder: Path) -> Callable[[random.Random], None]:
    """What a run leaves: results, receipts, encoders and checkpoints."""
    from mrscale.report import load_result, render
    from mrscale.train.encoder import Encoder, Prepared
    from mrscale.workflow.carried_encoder import load_encoder
    from mrscale.workflow.runfolder import RunFolder

    path = folder / "run"
    names = sorted(
        str(f.relative_to(path)) for f in path.rglob("*") if f.suffix in (".json", ".safetensors")
    )
    of_run = RunFolder(path)

    def case(rng: random.Random) -> None:
        mutate_folder(path, names, rng)
        result = attempt(lambda: load_result(of_run.result))
        if result is not None:
            attempt(lambda: render(result))
        attempt(of_run.clocks)
        for file in sorted(path.rglob("*.safetensors")):
            kind = Prepared if file.stem == "prepared" else Encoder
            attempt(partial(kind.load, file))
            attempt(partial(load_encoder, file))

    return case


STUDY = """
name = "Fuzzed"
run = "run"
folds = 2
[genotypes]
vcf = ["genotypes.vcf.bgz"]
[people]
phenotypes = "people.tsv"
environment_column = ["site", "sex"]
family_column = "family"
missing_values = ["-9"]
ancestry = "ancestry.tsv"
kinship = "kinship.tsv"
exclude = ["exclude.tsv"]
[traits]
exposure = ["ldl"]
outcome = ["chd"]
covariate = ["age", "PC1"]
[instruments]
file = "instruments.tsv"
p_value = 5e-8
[encoder]
methods = ["linear", "flow"]
steps = 40
restarts = 1
factors = 3
latent_dim = 1
batch_size = 60
input = "resident"
[disclosure]
limit = 25
"""


def write_tables(folder: Path) -> None:
    """A study file, its tables of 200 people, its list of instruments, and VCF files."""
    import pysam

    rng = random.Random(1)
    (folder / "study.toml").write_text(STUDY)
    people = [["person_id", "site", "sex", "family", "ldl", "chd", "age"]]
    ancestry = [["research_id", "ancestry_pred", "pca_features"]]
    for i in range(200):
        values = [f"{rng.gauss(0, 1):.3f}" for _ in range(3)]
        people.append([f"{1000 + i}", f"site {i % 2}", f"{i // 2 % 2}", f"F{i // 3}", *values])
        ancestry.append([f"{1000 + i}", "eur", f"[{rng.gauss(0, 1):.3f}, {i}]"])
    kinship = [["i.s", "j.s", "kin"], *([f"{1000 + i}", f"{1001 + i}", "0.2"] for i in range(9))]
    names = ["chromosome", "base_pair_location", "effect_allele", "other_allele", "beta", "p_value"]
    listed = [names, *(["1", f"{100 + i}", "A", "C", "0.1", f"1e-{9 + i}"] for i in range(40))]
    written = {"people": people, "ancestry": ancestry, "kinship": kinship, "instruments": listed}
    for name, rows in (written | {"exclude": [["s"], ["1003"], ["1004"]]}).items():
        text = "".join("\t".join(row) + "\n" for row in rows)
        (folder / f"{name}.tsv").write_text(text)
    columns = ["#CHROM", "POS", "ID", "REF", "ALT", "QUAL", "FILTER", "INFO", "FORMAT"]
    columns += [row[0] for row in people[1:]]
    calls = "\t".join(["0/1"] * 200)
    rows = "".join(f"1\t{100 + i}\t.\tC\tA\t.\t.\t.\tGT\t{calls}\n" for i in range(40))
    text = "##fileformat=VCFv4.2\n##contig=<ID=1>\n" + "\t".join(columns) + "\n" + rows
    (folder / "genotypes.vcf").write_text(text)
    with pysam.BGZFile(str(folder / "genotypes.vcf.bgz"), "wb") as file:
        file.write(text.encode())


def write_run(folder: Path, store: Path) -> None:
    """A run with encoders and results in ``run``."""
    from mrscale.study_file import load_study
    from mrscale.workflow.encoding import encode
    from mrscale.workflow.estimating import estimate
    from mrscale.workflow.training import train

    file = folder / "study.toml"
    file.write_text(STUDY)
    chosen = load_study(file).model_copy(update={"store": str(store)})
    train(chosen, quiet=True)
    encode(chosen, quiet=True)
    estimate(chosen, quiet=True)


KINDS = {"store": store, "study": study, "tables": tables, "vcf": vcf, "run": run}


def attempt(read: Callable[[], Any]) -> Any:
    """The result; None where an error of ours says that there is none."""
    from mrscale.errors import MrscaleError

    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        return read()
    except MrscaleError as error:
        said = str(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    if not said or "\n" in said:
        raise AssertionError(f"not a sentence: {said!r}")
    return None


def main(kind: str, first: int, count: int, folder: Path) -> None:
    """Try some cases; see the module."""
    logging.disable()
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGPROF, _too_long)
    case = KINDS[kind](folder)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES,) * 2)
    for number in range(first, first + count):
        with restored(folder):
            try:
                case(random.Random(f"{kind}-{number}"))
            except BaseException:
                print(json.dumps([number, traceback.format_exc()]), flush=True)
    print(f"tried {count} cases", file=sys.stderr)


def _too_long(*_: object) -> None:
    raise TimeoutError(f"a case took over {SECONDS} s")


def failures(kind: str, first: int, count: int, folder: Path) -> list[Any]:
    """What went wrong in some cases, tried in a child process."""
    words = [sys.executable, __file__, kind, str(first), str(count), str(folder)]
    done = subprocess.run(words, capture_output=True, text=True)
    found = [json.loads(line) for line in done.stdout.splitlines()]
    return found if done.returncode == 0 else [*found, [done.returncode, done.stderr[-2000:]]]


if __name__ == "__main__":
    main(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), Path(sys.argv[4]))
