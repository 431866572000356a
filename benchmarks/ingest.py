"""How long ingest takes, against a plain copy of the same files and against the old way of preparing a data set.

The data set is made from a VOC archive or folder: its images are repeated until there are enough, each with a comment
of its own in the JPEG header, so that no two have the same bytes. In one run, several times and in changing order:

copy    shutil.copytree of the folder
ours    ingest of the folder: every image hashed, decoded and stored, every label checked
old     one thread; per image one XML read with ElementTree, one text file written, the image copied twice

Ratios of the medians and the peak memory of ingest with all its processes are printed.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
import xml.etree.ElementTree as ET
import zipfile
from collections.abc import Callable
from pathlib import Path

import psutil

REPOSITORY = Path(__file__).resolve().parents[1]
SAMPLING_SECONDS = 0.02


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="zip or folder with Annotations and JPEGImages (JPEG images)")
    parser.add_argument("--images", type=int, default=7500, help="how many (default 7500)")
    parser.add_argument("--repeats", type=int, default=3, help="how often each is measured (default 3)")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's temporary folder)")
    parser.add_argument("--only", nargs=3, metavar=("METHOD", "FROM", "TO"), help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.only:
        method, source, target = given.only
        print(json.dumps(measure(METHODS[method], Path(source), Path(target))))
        return
    with tempfile.TemporaryDirectory(dir=given.folder) as temporary:
        work = Path(temporary)
        data_set = build(given.source, work, given.images)
        report(compare(data_set, work, given.repeats))


def build(source: Path, work: Path, count: int) -> Path:
    """Make the data set."""
    if source.is_file():
        with zipfile.ZipFile(source) as archive:
            archive.extractall(work / "source")
        source = work / "source"
    images = sorted(path for path in source.rglob("*.jpg") if path.parent.name == "JPEGImages")
    if not images:
        raise SystemExit(f"{source}: no JPEGImages/*.jpg in it")
    target = work / "VOC"
    (target / "JPEGImages").mkdir(parents=True)
    (target / "Annotations").mkdir()
    size = 0
    for number in range(count):
        image = images[number % len(images)]
        data = with_comment(image.read_bytes(), f"copy {number}".encode())
        size += len(data)
        (target / "JPEGImages" / f"{number:06d}.jpg").write_bytes(data)
        label = image.parents[1] / "Annotations" / f"{image.stem}.xml"
        shutil.copy(label, target / "Annotations" / f"{number:06d}.xml")
    shutil.rmtree(work / "source", ignore_errors=True)
    print(f"{count} images, {size / count / 1000:.1f} kB each, {os.cpu_count()} processors")
    return target


def with_comment(jpeg: bytes, comment: bytes) -> bytes:
    """The same image in other bytes."""
    return jpeg[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + jpeg[2:]


def compare(data_set: Path, work: Path, repeats: int) -> dict[str, list[dict[str, float]]]:
    """Measure each method in a process of its own, in changing order."""
    results: dict[str, list[dict[str, float]]] = {name: [] for name in METHODS}
    names = list(METHODS)
    for repeat in range(repeats):
        for name in names[repeat % len(names) :] + names[: repeat % len(names)]:
            target = work / "target"
            os.sync()
            command = [sys.executable, __file__, str(data_set), "--only", name, str(data_set), str(target)]
            environment = os.environ | {"PYTHONPATH": str(REPOSITORY)}
            done = subprocess.run(command, env=environment, check=True, capture_output=True, text=True)
            results[name].append(json.loads(done.stdout.splitlines()[-1]))
            print(f"  {name:5} {results[name][-1]['seconds']:6.2f} s")
            shutil.rmtree(target)
    return results


def report(results: dict[str, list[dict[str, float]]]) -> None:
    seconds = {name: statistics.median(run["seconds"] for run in runs) for name, runs in results.items()}
    for name in METHODS:
        print(f"{name:5} {seconds[name]:6.2f} s   {seconds[name] / seconds['copy']:5.2f} times copy")
    print(f"old takes {seconds['old'] / seconds['ours']:.2f} times as long as ours")
    print(f"ours: peak memory of all its processes {max(run['megabytes'] for run in results['ours']):.0f} MB")


def measure(method: Callable[[Path, Path], None], source: Path, target: Path) -> dict[str, float]:
    """Seconds, and the highest sum of resident memory of this process and its children, in MB (10^6 bytes)."""
    from components.ingest.ingest import ingest  # noqa: F401 (importing is not what is measured)

    peak, ended = [0], threading.Event()
    watcher = threading.Thread(target=watch, args=(peak, ended))
    watcher.start()
    started = time.perf_counter()
    method(source, target)
    seconds = time.perf_counter() - started
    ended.set()
    watcher.join()
    return {"seconds": seconds, "megabytes": peak[0] / 1e6}


def watch(peak: list[int], ended: threading.Event) -> None:
    here = psutil.Process()
    while not ended.wait(SAMPLING_SECONDS):
        total = 0
        for process in [here, *here.children(recursive=True)]:
            try:
                total += process.memory_info().rss
            except psutil.NoSuchProcess:
                continue
        peak[0] = max(peak[0], total)


def copy(source: Path, target: Path) -> None:
    shutil.copytree(source, target)


def ours(source: Path, target: Path) -> None:
    from components.ingest.ingest import ingest

    ingested = ingest(str(source), str(target))
    ingested.manifest.write(target / "manifest.parquet")


def old(source: Path, target: Path) -> None:
    """What scripts around VOC do: labels to YOLO's text, images to a work folder and to the trainer's folder."""
    for part in ("labels", "images", "train"):
        (target / part).mkdir(parents=True)
    for path in sorted((source / "Annotations").iterdir()):
        root = ET.parse(path).getroot()
        width, height = (float(root.findtext(f"size/{side}") or 0) for side in ("width", "height"))
        lines = []
        for item in root.iter("object"):
            x1, y1, x2, y2 = (float(item.findtext(f"bndbox/{c}") or 0) for c in ("xmin", "ymin", "xmax", "ymax"))
            box = ((x1 + x2) / 2 / width, (y1 + y2) / 2 / height, (x2 - x1) / width, (y2 - y1) / height)
            lines.append(" ".join(map(str, (item.findtext("name"), *box))))
        (target / "labels" / f"{path.stem}.txt").write_text("\n".join(lines))
        for part in ("images", "train"):
            shutil.copy(source / "JPEGImages" / f"{path.stem}.jpg", target / part)


METHODS: dict[str, Callable[[Path, Path], None]] = {"copy": copy, "ours": ours, "old": old}

if __name__ == "__main__":
    main()
