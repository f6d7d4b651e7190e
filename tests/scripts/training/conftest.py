"""What tests of tracking share."""

import pytest
from mlflow import MlflowClient


@pytest.fixture
def runs(mlflow_store, request):
    """Return the function that finds the runs of the experiment named as the test."""
    client = MlflowClient(mlflow_store)

    def find():
        experiment = client.get_experiment_by_name(request.node.name)
        return client.search_runs([experiment.experiment_id]) if experiment else []

    return find
