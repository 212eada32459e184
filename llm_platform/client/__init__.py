"""The Python SDK: the REST API as typed Python calls, with nothing but httpx and pydantic.

    client = Client(base_url="http://localhost:8000/api/v1")
    dataset = client.datasets.upload("training_data.csv")
    job = client.jobs.create({"nodes": [...], "edges": [...]})
    for log in client.logs.stream(job.run_id):
        print(log.level, log.message)

`AsyncClient` has the same resources and methods for asyncio. In notebooks, jobs, models, lists and comparisons show as tables.

Errors are those of `llm_platform.errors`, by the code in the answer; `ServiceUnavailable` when nobody answers.
"""

from llm_platform.client.aio import AsyncClient, AsyncJob, AsyncListing, AsyncModel
from llm_platform.client.client import Client
from llm_platform.client.datasets import Datasets
from llm_platform.client.display import Comparison
from llm_platform.client.follow import LogLine
from llm_platform.client.jobs import Job, Jobs
from llm_platform.client.keys import Audit, Keys
from llm_platform.client.logs import Logs
from llm_platform.client.models import Model, Models
from llm_platform.client.notebooks import Notebooks
from llm_platform.client.pages import Page

__all__ = [
    "AsyncClient", "AsyncJob", "AsyncListing", "AsyncModel", "Audit", "Client", "Comparison", "Datasets", "Job", "Jobs", "Keys",
    "LogLine", "Logs", "Model", "Models", "Notebooks", "Page",
]  # fmt: skip
