"""Rows in a run of MLflow, by default in a data base beside the result."""

import logging
import os
import re
import time
from collections.abc import Mapping

from kanpde.loggers.base import Logger, described, flat, known, summed_up
from kanpde.records.run import RunFile

LONGEST = 5000  # letters of a value that MLflow takes
TAG = "kanpde.id"
STATES = {"finished": "FINISHED", "interrupted": "KILLED"}  # all else has failed


class MLflow(Logger):
    """Metrics by column in the experiment, the configuration as parameters, and tags; of a resumed run the same one.

    MLflow's own reports of its use, which it would send by itself, are switched off unless the environment has them on.

    Args:
        experiment: its name.
        tracking_uri: where the store is; default the data base mlflow.db beside the result file.
    """

    package = "mlflow"

    def __init__(self, experiment: str = "kanpde", tracking_uri: str | None = None):
        self.experiment, self.uri = experiment, tracking_uri

    def begin(self, run: RunFile) -> None:
        os.environ.setdefault("MLFLOW_DISABLE_TELEMETRY", "true")  # read at its import
        from mlflow import MlflowClient

        logging.getLogger("mlflow.store").setLevel(logging.WARNING)  # of tables that it has made
        folder = run.path.absolute().parent
        self.client = MlflowClient(self.uri or f"sqlite:///{folder / 'mlflow.db'}")
        found = self.client.get_experiment_by_name(self.experiment)
        files = None if self.uri else (folder / "mlartifacts").as_uri()
        experiment = found.experiment_id if found else self.client.create_experiment(self.experiment, files)
        former = self.client.search_runs([experiment], f"tags.`{TAG}` = '{run.attrs['id']}'")
        if former:
            self.id = former[0].info.run_id
            self.client.update_run(self.id, "RUNNING")
        else:
            tags = {**described(run), TAG: run.attrs["id"]}
            self.id = self.client.create_run(experiment, run_name=run.path.stem, tags=tags).info.run_id
            for name, value in flat(run.config).items():
                self.client.log_param(self.id, named(name), str(value)[:LONGEST])

    def row(self, step: int, row: Mapping[str, float]) -> None:
        self._log(known(row), step)

    def end(self, run: RunFile) -> None:
        self._log({f"end/{name}": value for name, value in summed_up(run).items()}, 0)
        self.client.set_tag(self.id, "status", str(run.attrs.get("status", "")))
        self.client.set_terminated(self.id, STATES.get(run.attrs.get("status"), "FAILED"))

    def _log(self, numbers: Mapping[str, float], step: int) -> None:
        from mlflow.entities import Metric

        now = int(1000 * time.time())
        self.client.log_batch(self.id, [Metric(named(name), value, now, step) for name, value in numbers.items()])


def named(name: str) -> str:
    """A name that MLflow takes: letters, digits, and some signs."""
    return re.sub(r"[^\w\-./ :]", "_", name)
