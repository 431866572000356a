"""Every pipeline and component there is, by name."""

from typing import Any

from components.benchmark.component import leaderboard, plan_cases, run_case, setup_benchmark
from components.convert.component import convert
from components.deploy.component import deploy, promote
from components.evaluate.component import evaluate, judge
from components.ingest.component import collect, ingest
from components.joint.component import calibrate, deploy_pair, setup_joint, train_big
from components.label.component import label
from components.lifelong.component import (
    define_tasks,
    deploy_tasks,
    evaluate_tasks,
    infer_tasks,
    setup_lifelong,
    train_task,
)
from components.mine.component import mine
from components.prepare.component import plan, prepare
from components.report.component import conclude, report
from components.rollout.component import rollout
from components.setup.component import setup, setup_round
from components.train.component import train
from components.trigger.component import trigger
from pipelines.benchmark import benchmark
from pipelines.hard_example_mining import hard_example_mining
from pipelines.helmet_detection import helmet_detection
from pipelines.incremental_learning import incremental_learning
from pipelines.incremental_round import incremental_round
from pipelines.joint_inference import joint_inference
from pipelines.lifelong_learning import lifelong_learning
from pipelines.lifelong_round import lifelong_round

COMPONENTS: dict[str, Any] = {
    component.name: component
    for component in (
        calibrate,
        collect,
        convert,
        define_tasks,
        deploy,
        deploy_pair,
        deploy_tasks,
        evaluate,
        evaluate_tasks,
        infer_tasks,
        ingest,
        judge,
        label,
        leaderboard,
        mine,
        plan,
        plan_cases,
        prepare,
        promote,
        conclude,
        report,
        rollout,
        run_case,
        setup,
        setup_benchmark,
        setup_joint,
        setup_lifelong,
        setup_round,
        train,
        train_big,
        train_task,
        trigger,
    )
}

PIPELINES: dict[str, Any] = {
    pipeline.name: pipeline
    for pipeline in (
        helmet_detection,
        incremental_learning,
        incremental_round,
        joint_inference,
        lifelong_learning,
        lifelong_round,
        hard_example_mining,
        benchmark,
    )
}
