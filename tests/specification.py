"""The answers that the API's specification shows."""

from __future__ import annotations

from llm_platform.specs import resources

SPECIFICATION = {
    resources.JobCreated: {"job_id": "job_abc123", "status": "pending", "created_at": "2025-12-13T01:00:00Z"},
    resources.Job: {
        "job_id": "job_abc123",
        "status": "running",
        "created_at": "2025-12-13T01:00:00Z",
        "started_at": "2025-12-13T01:00:05Z",
        "progress": {"completed_agents": ["dataset", "validation"], "current_agent": "preprocessing", "total_agents": 3},
        "result": None,
    },
    resources.JobCancelled: {"job_id": "job_abc123", "status": "cancelled"},
    resources.DatasetUploaded: {
        "dataset_id": "ds_xyz789",
        "filename": "training_data.csv",
        "size_bytes": 1048576,
        "s3_path": "s3://datasets/ds_xyz789/training_data.csv",
        "analysis": {
            "rows": 10000,
            "columns": ["text", "label"],
            "text_column": "text",
            "stats": {"avg_length": 256.5, "min_length": 10, "max_length": 1024},
        },
    },
    resources.Dataset: {
        "dataset_id": "ds_xyz789",
        "filename": "training_data.csv",
        "format": "csv",
        "rows": 10000,
        "columns": ["text", "label"],
        "created_at": "2025-12-13T01:00:00Z",
        "s3_path": "s3://datasets/ds_xyz789/training_data.csv",
    },
    resources.Preview: {
        "dataset_id": "ds_xyz789",
        "samples": [{"text": "Sample text 1", "label": "positive"}, {"text": "Sample text 2", "label": "negative"}],
        "total_rows": 10000,
    },
    resources.ModelList: {
        "models": [
            {
                "model_id": "model_abc123",
                "run_id": "abc123",
                "model_name": "llama2-finetuned",
                "base_model": "meta-llama/Llama-2-7b-hf",
                "created_at": "2025-12-13T01:00:00Z",
                "metrics": {"accuracy": 0.92, "f1": 0.89},
                "exports": ["adapter", "merged"],
            }
        ],
        "total": 1,
        "limit": 20,
        "offset": 0,
    },
    resources.Model: {
        "model_id": "model_abc123",
        "run_id": "abc123",
        "model_name": "llama2-finetuned",
        "base_model": "meta-llama/Llama-2-7b-hf",
        "dataset_id": "ds_xyz789",
        "training_config": {"method": "qlora", "lora_r": 16, "lora_alpha": 32, "epochs": 3, "batch_size": 4, "learning_rate": 2e-4},
        "metrics": {"accuracy": 0.92, "f1": 0.89, "final_loss": 0.42},
        "exports": {"adapter": "s3://artifacts/abc123/adapter", "merged": "s3://artifacts/abc123/merged"},
        "created_at": "2025-12-13T01:00:00Z",
    },
    resources.LogHistory: {
        "run_id": "abc123",
        "logs": [
            {"timestamp": "2025-12-13T01:00:00Z", "agent": "DatasetAgent", "level": "INFO", "message": "Starting dataset ingestion"},
            {"timestamp": "2025-12-13T01:00:05Z", "agent": "DatasetAgent", "level": "INFO", "message": "Dataset loaded: 10000 rows"},
        ],
        "total": 2,
    },
    resources.LogLine: {
        "run_id": "abc123",
        "timestamp": "2025-12-13T01:00:10Z",
        "agent": "TrainingAgent",
        "level": "METRIC",
        "message": "Training step completed",
        "step": 100,
        "epoch": 1,
        "loss": 1.85,
    },
    resources.ErrorBody: {
        "error": "VALIDATION_ERROR",
        "message": "Input validation failed for DatasetAgent",
        "metadata": {"errors": [{"field": "file_path", "message": "field required"}]},
    },
}
"""Its examples of answers, to the letter."""
