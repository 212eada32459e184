"""What the models' JSON schemas show as examples: those of the API's specification, with the fields that it does not name."""

from __future__ import annotations

from typing import Any

CREATED = "2025-12-13T01:00:00Z"
BASE_MODEL = "meta-llama/Llama-2-7b-hf"

ERROR: dict[str, Any] = {
    "error": "VALIDATION_ERROR",
    "message": "Input validation failed for DatasetAgent",
    "metadata": {"errors": [{"field": "file_path", "message": "field required"}]},
}

PREPROCESSING: dict[str, Any] = {
    "base_model": BASE_MODEL,
    "clean": True,
    "dedup": True,
    "template": "alpaca",
    "template_mapping": {"instruction": "question", "output": "answer"},
}
"""Of a PreprocessingAgent."""
PIPELINE: dict[str, Any] = {
    "run_id": "abc123",
    "nodes": [
        {
            "agent_name": "dataset",
            "agent_class": "DatasetAgent",
            "config": {"file_path": "s3://datasets/training_data.csv", "format": "csv"},
        },
        {"agent_name": "validation", "agent_class": "ValidationAgent", "config": {}},
        {"agent_name": "preprocessing", "agent_class": "PreprocessingAgent", "config": PREPROCESSING},
    ],
    "edges": [{"from_agent": "dataset", "to_agent": "validation"}, {"from_agent": "validation", "to_agent": "preprocessing"}],
    "global_config": {"max_retries": 3},
}

JOB_CREATED: dict[str, Any] = {"job_id": "job_abc123", "run_id": "abc123", "status": "pending", "created_at": CREATED}
JOB: dict[str, Any] = {
    "job_id": "job_abc123",
    "run_id": "abc123",
    "model_id": None,
    "status": "running",
    "created_at": CREATED,
    "started_at": "2025-12-13T01:00:05Z",
    "ended_at": None,
    "progress": {"completed_agents": ["dataset", "validation"], "current_agent": "preprocessing", "total_agents": 3},
    "result": None,
    "nodes": [
        {
            "agent_name": "dataset",
            "agent_class": "DatasetAgent",
            "status": "completed",
            "attempts": 1,
            "started_at": "2025-12-13T01:00:06Z",
            "ended_at": "2025-12-13T01:00:09Z",
        },
        {
            "agent_name": "validation",
            "agent_class": "ValidationAgent",
            "status": "completed",
            "attempts": 1,
            "started_at": "2025-12-13T01:00:10Z",
            "ended_at": "2025-12-13T01:00:12Z",
        },
        {
            "agent_name": "preprocessing",
            "agent_class": "PreprocessingAgent",
            "status": "running",
            "attempts": 1,
            "started_at": "2025-12-13T01:00:13Z",
            "ended_at": None,
        },
    ],
}
JOB_CANCELLED: dict[str, Any] = {"job_id": "job_abc123", "status": "cancelled"}
JOB_KEPT: dict[str, Any] = {**JOB_CANCELLED, "keeps": ["training"]}
"""What is answered with `keep`."""
ARTIFACTS_DELETED: dict[str, Any] = {
    "job_id": "job_abc123",
    "deleted": ["s3://artifacts/abc123/merged"],
    "kept": [{"address": "s3://artifacts/abc123/adapter", "reason": "of model model_abc123"}],
    "models": [],
    "freed_bytes": 13_476_925_163,
}

_ANALYSIS: dict[str, Any] = {
    "rows": 10000,
    "columns": ["text", "label"],
    "text_column": "text",
    "stats": {"avg_length": 256.5, "min_length": 10, "max_length": 1024},
}
_FILE: dict[str, Any] = {"filename": "training_data.csv", "s3_path": "s3://datasets/ds_xyz789/training_data.csv"}
DATASET_UPLOADED: dict[str, Any] = {"dataset_id": "ds_xyz789", **_FILE, "size_bytes": 1048576, "analysis": _ANALYSIS}
DATASET: dict[str, Any] = {
    "dataset_id": "ds_xyz789",
    **_FILE,
    "format": "csv",
    "rows": 10000,
    "columns": ["text", "label"],
    "created_at": CREATED,
}
PREVIEW: dict[str, Any] = {
    "dataset_id": "ds_xyz789",
    "samples": [{"text": "Sample text 1", "label": "positive"}, {"text": "Sample text 2", "label": "negative"}],
    "total_rows": 10000,
}
PROFILE: dict[str, Any] = {
    "analysis": _ANALYSIS,
    "layout": {"name": "text_label", "columns": {"instruction": "text", "output": "label"}},
    "histogram": [{"low": 10, "high": 517, "count": 9310}, {"low": 518, "high": 1025, "count": 690}],
    "nulls": {"text": 0, "label": 12},
    "duplicates": 37,
    "languages": {"en": 0.97, "und": 0.03},
    "turns": None,
    "shortest": {"text": "Great film", "label": "positive"},
    "longest": {"text": "It begins with a long walk through the rain…", "label": "negative"},
    "tokens": {
        "tokenizer": BASE_MODEL,
        "rows": 1000,
        "stats": {"avg_length": 64.2, "min_length": 3, "max_length": 262},
        "histogram": [{"low": 3, "high": 132, "count": 934}, {"low": 133, "high": 262, "count": 66}],
    },
}

_MODEL: dict[str, Any] = {
    "model_id": "model_abc123",
    "run_id": "abc123",
    "model_name": "llama2-finetuned",
    "base_model": BASE_MODEL,
    "created_at": CREATED,
    "aliases": ["champion"],
}
MODEL_LIST: dict[str, Any] = {
    "models": [{**_MODEL, "metrics": {"accuracy": 0.92, "f1": 0.89}, "exports": ["adapter", "merged"]}],
    "total": 1,
    "limit": 20,
    "offset": 0,
    "has_more": False,
}
MODEL: dict[str, Any] = {
    **_MODEL,
    "dataset_id": "ds_xyz789",
    "training_config": {"method": "qlora", "lora_r": 16, "lora_alpha": 32, "epochs": 3, "batch_size": 4, "learning_rate": 2e-4},
    "metrics": {"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42},
    "exports": {"adapter": "s3://artifacts/abc123/adapter", "merged": "s3://artifacts/abc123/merged"},
    "gates": {
        "adapter": {
            "runtime": "peft",
            "accepted": True,
            "reasons": [],
            "split": "test",
            "rows": 50,
            "agreement": 1.0,
            "required_agreement": 0.99,
            "same_end": 1.0,
            "logit_difference": 0.004,
            "allowed_logit_difference": 0.5,
            "same_tokens": 1.0,
            "same_template": None,
            "seconds": 41.7,
        }
    },
}
MODEL_FILES: dict[str, Any] = {
    "model_id": "model_abc123",
    "format": "adapter",
    "address": "s3://artifacts/abc123/adapter",
    "files": [
        {
            "path": "adapter_model.safetensors",
            "size_bytes": 159967880,
            "sha256": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08",
            "url": "https://storage.example.com/artifacts/abc123/adapter/adapter_model.safetensors?X-Amz-Expires=3600",
        }
    ],
    "expires_at": "2025-12-13T02:00:00Z",
}

LOG_LINE: dict[str, Any] = {
    "run_id": "abc123",
    "timestamp": "2025-12-13T01:00:10Z",
    "agent": "TrainingAgent",
    "agent_name": "training",
    "level": "METRIC",
    "message": "Training step completed",
    "step": 100,
    "epoch": 1,
    "loss": 1.85,
}
_INGESTED: dict[str, Any] = {"run_id": "abc123", "agent": "DatasetAgent", "agent_name": "dataset", "level": "INFO"}
LOG_HISTORY: dict[str, Any] = {
    "run_id": "abc123",
    "logs": [
        {**_INGESTED, "timestamp": CREATED, "message": "Starting dataset ingestion"},
        {**_INGESTED, "timestamp": "2025-12-13T01:00:05Z", "message": "Dataset loaded: 10000 rows"},
    ],
    "total": 2,
    "next_cursor": None,
}

USAGE: dict[str, Any] = {
    "owner": "ada",
    "dataset_bytes": {"used": 1048576, "limit": 10 * 2**30},
    "open_jobs": {"used": 1, "limit": None},
}
HEALTH: dict[str, Any] = {
    "status": "healthy",
    "version": "1.0.0",
    "services": {
        "api": "healthy",
        "redis": "healthy",
        "dagster": "healthy",
        "mlflow": "healthy",
        "storage": "healthy",
        "disk": "healthy",
    },
}
