"""The benchmark of incremental learning as KFP components."""

from typing import List  # noqa: UP035 - KFP knows lists of artifacts by this name

from kfp import dsl

from components import images


@images.train_component
def setup_benchmark(
    data_url: str,
    job_root: str,
    node_selector: dict,
    step_cpu: str,
    step_memory: str,
    store_secret: str,
    tolerations: list,
    train_cpu: str,
    train_gpu_type: str,
    train_gpus: str,
    train_memory: str,
    settings: dict = {},  # noqa: B006 - KFP takes the default as a value
) -> None:
    """Check every parameter and every algorithm of a benchmark before any work starts.

    Args:
        data_url: See `ingest`.
        job_root: Where the benchmark is kept.
        node_selector: Labels of the nodes that steps may run on.
        step_cpu: CPUs of each step that loads a model.
        step_memory: Memory of each step that loads a model.
        store_secret: Kubernetes secret with the credentials of the store.
        tolerations: Kubernetes tolerations of every step.
        train_cpu: CPUs of a case.
        train_gpu_type: Resource name of the GPUs.
        train_gpus: Number of GPUs for a case.
        train_memory: Memory of a case.
        settings: Parameters by name.
    """
    values = dict(locals())
    from components.core.steps import step

    with step("setup", job_root):
        from components.benchmark.algorithms import baselines_of, check_algorithms, names_in, read_algorithms
        from components.benchmark.algorithms import plan_cases as plan
        from components.benchmark.leaderboard import check_sort
        from components.core import plugins
        from components.core.parameters import (
            WORKFLOWS,
            BenchmarkSettings,
            DataSettings,
            PluginSettings,
            parse_seeds,
            read,
        )
        from components.core.stores.open import check_readable
        from components.ingest.classes import Classes
        from components.ingest.dataset import formats
        from components.setup.cluster import warn_of_cluster
        from components.setup.setup import check_run

        def data() -> DataSettings:
            return read(DataSettings, settings)

        def chosen() -> BenchmarkSettings:
            return read(BenchmarkSettings, settings)

        def algorithms() -> None:
            listed = read_algorithms(chosen().algorithms)
            check_algorithms(listed)
            plan([*listed, *baselines_of(listed, names_in(chosen().baselines))], parse_seeds(chosen().seeds), {})
            for address in sorted({one.base_model.partition("#")[0] for one in listed if "://" in one.base_model}):
                check_readable(address)

        check_run(
            values,
            WORKFLOWS["benchmark"],
            [
                lambda: plugins.load(read(PluginSettings, settings).plugins),
                lambda: data().data_format == "auto" or formats.get(data().data_format),
                lambda: Classes(data().classes, data().ignore_classes),
                algorithms,
                lambda: check_sort(names_in(chosen().sort_by)),
            ],
        )
        warn_of_cluster(values)


@images.train_component
def plan_cases(
    samples: dsl.Input[dsl.Dataset],
    job_root: str,
    test: dsl.Output[dsl.Dataset],
    cases: dsl.Output[dsl.Artifact],
    settings: dict = {},  # noqa: B006
) -> list:
    """List the cases: each algorithm and each baseline with each seed.

    Args:
        samples: Manifest from `ingest`.
        job_root: Where the benchmark is kept.
        test: Samples of `test_url`; none without one.
        cases: The cases with their settings, as JSON.
        settings: Parameters by name.

    Returns:
        Digests of the cases.
    """
    from components.core.steps import step

    with step("plan_cases", job_root):
        import json
        import logging
        from pathlib import Path

        from components.benchmark.algorithms import (
            baselines_of,
            check_algorithms,
            names_in,
            plan_cases,
            read_algorithms,
        )
        from components.benchmark.stream import digest_of, open_stream
        from components.core import plugins
        from components.core.manifest import Manifest
        from components.core.parameters import (
            BenchmarkSettings,
            DataSettings,
            PluginSettings,
            SplitSettings,
            parse_seeds,
            read,
        )
        from components.core.version import VERSION
        from components.ingest.ingest import ingest as bring_in

        plugins.load(read(PluginSettings, settings).plugins)
        chosen, splits = read(BenchmarkSettings, settings), read(SplitSettings, settings)
        listed = read_algorithms(chosen.algorithms)
        baselines = baselines_of(listed, names_in(chosen.baselines))
        check_algorithms(listed)
        manifest = Manifest.read(samples.path)
        held_out = Manifest.of([], manifest.classes)
        if chosen.test_url:
            held_out = bring_in(chosen.test_url, job_root, **dict(read(DataSettings, settings))).manifest
        held_out.write(test.path)
        seeds = parse_seeds(chosen.seeds)
        # What does not fit is told once, and not by each case.
        streams = [open_stream(manifest, held_out, chosen, splits, seed) for seed in seeds]
        if left_out := len(manifest) - len(streams[0].everything):
            logging.warning(
                "%d of %d samples are in no round: unlabelled, in the test set, or stream_pattern does not match their "
                "paths", left_out, len(manifest),
            )  # fmt: skip
        arrival = chosen.model_dump(include={"stream", "rounds", "stream_pattern", "stream_order"}) | dict(splits)
        data = digest_of(manifest) + (f"+{digest_of(held_out)}" if len(held_out) else "")
        planned = plan_cases([*listed, *baselines], seeds, {"stream": arrival, "data": data, "version": VERSION})
        counts = len(planned), len(listed), len(baselines), len(seeds)
        logging.info("%d cases: %d algorithms and %d baselines, %d seeds", *counts)
        made = {
            "stream": arrival,
            "data": data,
            "timeout": chosen.case_timeout,
            "cases": {case.digest: case.model_dump(mode="json") for case in planned},
        }
        Path(cases.path).write_text(json.dumps(made, indent=1), encoding="utf-8")
        return [case.digest for case in planned]


@images.train_component
def run_case(
    case: str,
    cases: dsl.Input[dsl.Artifact],
    samples: dsl.Input[dsl.Dataset],
    test: dsl.Input[dsl.Dataset],
    job_root: str,
    row: dsl.Output[dsl.Artifact],
    metrics: dsl.Output[dsl.Metrics],
    settings: dict = {},  # noqa: B006
) -> None:
    """Run one algorithm with one seed through all rounds; a case that is finished already is not run again.

    A case that fails does not fail the step: its row says why there are no figures.

    Args:
        case: Digest of the case, from `plan-cases`.
        cases: From `plan-cases`.
        samples: Manifest from `ingest`.
        test: From `plan-cases`.
        job_root: Where the benchmark is kept; finished cases are under `benchmark/cases/`.
        row: What came of it, as JSON.
        metrics: Figures of the case.
        settings: Parameters by name.
    """
    from components.core.steps import step

    with step(f"case_{case[:8]}", job_root):
        import json
        import logging
        from pathlib import Path
        from typing import Any

        # Nothing that starts threads, such as a table or torch, is used before the child process is forked.
        from components.benchmark.isolation import run_isolated
        from components.benchmark.row import Row, origin
        from components.core.stores.addresses import shown_model

        chosen = json.loads(Path(cases.path).read_text(encoding="utf-8"))
        wanted, told = chosen["cases"][case], {"stream": chosen["stream"], "data": chosen["data"]}

        def work() -> Row:
            from components.benchmark.algorithms import Case
            from components.benchmark.case import Steps, run_case, work_folder
            from components.benchmark.results import keep, kept
            from components.benchmark.stream import open_stream
            from components.core import plugins
            from components.core.bundle import Bundle
            from components.core.cache import cache_folder
            from components.core.manifest import Manifest
            from components.core.parameters import (
                BenchmarkSettings,
                DeviceSettings,
                PluginSettings,
                SplitSettings,
                read,
            )
            from components.mine.embeddings import by_champion
            from components.mine.mine import vectors_of
            from components.mine.pool import Candidate
            from components.mine.score_pool import score_pool
            from components.mine.selection import choose, weights_of
            from components.prepare.replay import draw
            from components.train.train import train

            def chosen_ids(seen: Any, budget: int, model: Path, boxes: dict[str, int], **shares: Any) -> list[str]:
                weights = weights_of(boxes, Bundle.read(model).classes)
                vectors = vectors_of(by_champion(model), cache_folder(job_root) / "blobs")
                picks = choose(seen, budget, class_weights=weights, vectors=vectors, **shares).picks
                return [pick.seen.candidate.id for pick in picks]

            one = Case.model_validate(wanted)
            with work_folder(job_root, one) as folder:
                if (finished := kept(job_root, one)) is not None:
                    logging.info("%s, seed %d: finished by an earlier run", one.algorithm.name, one.seed)
                    return finished
                modules = read(PluginSettings, settings).plugins
                plugins.load(modules)
                stream = open_stream(
                    Manifest.read(samples.path),
                    Manifest.read(test.path),
                    read(BenchmarkSettings, settings),
                    read(SplitSettings, settings),
                    one.seed,
                )
                done = run_case(
                    one,
                    stream,
                    Steps(train, draw, Candidate, score_pool, chosen_ids),
                    folder=folder,
                    job_root=job_root,
                    plugin_modules=modules,
                    **dict(read(DeviceSettings, settings)),
                ).model_copy(update=told)
                keep(job_root, done)
            return done

        algorithm = wanted["algorithm"]
        failed = Row(
            case=case,
            algorithm=algorithm["name"],
            baseline=algorithm["baseline"],
            seed=wanted["seed"],
            settings={name: value for name, value in algorithm.items() if name != "name"}
            | {"base_model": shown_model(algorithm["base_model"])},
            content=wanted["content"],
            **told,
            **origin(),
        )
        found = run_isolated(work, failed, chosen["timeout"])
        if found.error:
            logging.warning("%s, seed %d failed: %s", found.algorithm, found.seed, found.error)
        Path(row.path).write_text(found.model_dump_json(indent=1), encoding="utf-8")
        for figure, value in found.figures.items():
            metrics.log_metric(figure, value)


@images.train_component
def leaderboard(
    rows: dsl.Input[List[dsl.Artifact]],  # noqa: UP006
    job_root: str,
    run_id: str,
    table: dsl.Output[dsl.Dataset],
    cases: dsl.Output[dsl.Dataset],
    metrics: dsl.Output[dsl.Metrics],
    page: dsl.Output[dsl.HTML],
    settings: dict = {},  # noqa: B006
) -> str:
    """Put the algorithms in order.

    Args:
        rows: What came of each case.
        job_root: Where the benchmark is kept; table and page go to `benchmark/` and `reports/`.
        run_id: Name of the run.
        table: One line for each algorithm (CSV): mean and standard deviation of every figure.
        cases: One line for each case (CSV).
        metrics: Figures of the best algorithm.
        page: The leaderboard as a page.
        settings: Parameters by name.

    Returns:
        Where the page was kept.
    """
    from components.core.steps import step

    with step("leaderboard", job_root):
        page.metadata["display_name"] = "leaderboard"  # what the pages of Kubeflow show
        import logging
        from pathlib import Path

        from components.benchmark.algorithms import names_in
        from components.benchmark.leaderboard import as_csv, cases_csv, rank, sections
        from components.benchmark.results import keep_tables
        from components.benchmark.row import Row
        from components.core.errors import InputError
        from components.core.parameters import BenchmarkSettings, read
        from components.core.reports.page import write_page
        from components.report.report import keep

        found = [Row.model_validate_json(Path(one.path).read_bytes()) for one in rows]
        entries = rank(found, names_in(read(BenchmarkSettings, settings).sort_by))
        Path(table.path).write_text(as_csv(entries), encoding="utf-8")
        Path(cases.path).write_text(cases_csv(found), encoding="utf-8")
        write_page(page.path, "Benchmark", sections(entries))
        best = entries[0].mean
        for name, value in best.items():
            metrics.log_metric(name, value)
        keep_tables(job_root, {"leaderboard.csv": table.path, "cases.csv": cases.path})
        kept = keep(page.path, job_root, "Benchmark", best, run_id)
        for entry in entries:
            shown = [f"{name} {entry.mean[name]:.3f}" for name in ("map50", "f1", "f1_ianvs") if name in entry.mean]
            logging.info("%s. %s: %s", entry.rank or "-", entry.name, ", ".join(shown) or entry.rows[0].error)
        if not best:
            raise InputError(f"every case failed: {entries[0].rows[0].error}; see {kept}")
        return kept
