/** What goes in and comes out, derived from the platform's OpenAPI document. Times are ISO 8601 strings, as in the API. */

import type { Camel } from "./casing.js";
import type { components } from "./openapi.js";

type Schemas = components["schemas"];
type Settings<T> = T extends object ? { [K in keyof T]?: Settings<T[K]> } : T;

/** What every call takes. */
export interface CallOptions {
  /** Aborts the call, which then throws the signal's reason. */
  signal?: AbortSignal | undefined;
}

export interface ListOptions extends CallOptions {
  /** Items of a page, 20 if not given, 100 at most. */
  limit?: number;
  offset?: number;
}

export type Health = Camel<Schemas["Health"]>;
export type Format = Schemas["Dataset"]["format"];
export type Dataset = Camel<Schemas["Dataset"]>;
export type DatasetUploaded = Camel<Schemas["DatasetUploaded"]>;
export type Preview = Camel<Schemas["Preview"]>;
export type Profile = Camel<Schemas["Profile"]>;
export type Level = Schemas["LogLine"]["level"];
export type JobStatus = Schemas["Job"]["status"];
export type JobDetails = Camel<Schemas["Job"]>;
export type JobCreated = Camel<Schemas["JobCreated"]>;
export type JobCancelled = Camel<Schemas["JobCancelled"]>;
export type ArtifactsDeleted = Camel<Schemas["ArtifactsDeleted"]>;
export type JobResult = Camel<Schemas["JobResult"]>;
export type JobNode = Camel<Schemas["JobNode"]>;
export type Progress = Camel<Schemas["Progress"]>;
export type ModelSummary = Camel<Schemas["ModelSummary"]>;
export type ModelDetails = Camel<Schemas["Model"]>;
export type ModelFiles = Camel<Schemas["ModelFiles"]>;
export type Notebook = Camel<Schemas["Notebook"]>;
export type JobNotebook = Camel<Schemas["JobNotebook"]>;
export type Usage = Camel<Schemas["Usage"]>;
export type Comparison = Camel<Schemas["Comparison"]>;
export type Preflight = Camel<Schemas["Preflight"]>;
export type Scope = Schemas["Key"]["scope"];
export type Key = Camel<Schemas["Key"]>;
export type KeyCreated = Camel<Schemas["KeyCreated"]>;
export type AuditEntry = Camel<Schemas["AuditEntry"]>;
export type AuditAction = Schemas["AuditEntry"]["action"];

/** One line. METRIC lines carry `step`, `epoch`, `loss` and more, under the names that the platform logged. */
export type LogLine = Camel<Pick<Schemas["LogLine"], "run_id" | "timestamp" | "agent" | "agent_name" | "level" | "message">> & {
  [figure: string]: unknown;
};

export type LogHistory = Omit<Camel<Schemas["LogHistory"]>, "logs"> & { logs: LogLine[] };

type NodeOf<N> = N extends { agent_class: infer Agent } ? { agentName: string; agentClass: Agent; config?: SettingsOf<N> } : never;
type SettingsOf<N> = N extends { config?: infer Config } ? Settings<Exclude<Config, undefined>> : never;

/** `config` holds the settings of that agent under the API's names (`file_path`, `base_model`). */
export type PipelineNode = NodeOf<Schemas["Node"]>;

export interface PipelineConfig {
  runId?: string | null;
  nodes: PipelineNode[];
  edges?: Camel<Schemas["Edge"]>[];
  globalConfig?: Partial<Camel<Schemas["GlobalConfig"]>>;
}

/** A body of the REST API, as a file such as `examples/finetune_lora.json` holds it, is taken too. */
export type JobRequest =
  | PipelineConfig
  | { pipelineConfig: PipelineConfig }
  | Settings<Schemas["PipelineConfig"]>
  | { pipeline_config: Settings<Schemas["PipelineConfig"]> };

/** A whole pipeline, or a dataset with the settings of its preprocessing (and of a training), under the API's names. */
export interface PreflightRequest {
  pipelineConfig?: PipelineConfig;
  datasetId?: string;
  config?: Settings<Schemas["PreprocessingConfig"]>;
  training?: Settings<Schemas["TrainingConfig"]>;
  /** Rows, from 0, whose tokens are shown one by one. */
  rows?: number[];
  /** First rows of each dataset that are looked at. */
  sampleRows?: number;
}
