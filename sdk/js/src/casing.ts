/**
 * snake_case of the API to camelCase of JavaScript and back.
 *
 * Only names that the API itself gave are converted. An object below one of MAPS has keys that are data (columns, names
 * of figures, settings of an agent as every other face of the platform shows them), and so have the rows below ROWS:
 * these stay as they are.
 */

export const ROWS = ["samples"] as const;

export const MAPS = [
  // An agent's settings.
  "config",
  "training",
  "training_config",
  // Rows and columns of datasets.
  "shortest",
  "longest",
  "nulls",
  "columns",
  // By figure, node, kind, language, service, method.
  "artifacts",
  "differences",
  "exports",
  "gates",
  "funnel",
  "gpu_memory",
  "intervals",
  "languages",
  "metadata",
  "metrics",
  "report",
  "seconds",
  "services",
] as const;

type RowsName = (typeof ROWS)[number];
type MapName = (typeof MAPS)[number];

export type CamelName<S extends string> = S extends `${infer Head}_${infer Tail}` ? `${Head}${Capitalize<CamelName<Tail>>}` : S;

/** The type of an answer as `camelize` returns it. */
export type Camel<T> = T extends readonly (infer Item)[]
  ? Camel<Item>[]
  : T extends object
    ? { [K in keyof T as K extends string ? CamelName<K> : K]: K extends RowsName ? T[K] : K extends MapName ? Kept<T[K]> : Camel<T[K]> }
    : T;

type Kept<T> = T extends readonly unknown[] ? Camel<T> : T;

const rows: ReadonlySet<string> = new Set(ROWS);
const maps: ReadonlySet<string> = new Set(MAPS);

export function camelName(name: string): string {
  return name.replace(/_([a-z0-9])/g, (_, letter: string) => letter.toUpperCase());
}

export function snakeName(name: string): string {
  return name.replace(/[A-Z]/g, (letter) => `_${letter.toLowerCase()}`);
}

export function camelize<T>(value: T): Camel<T> {
  return renamed(value, camelName) as Camel<T>;
}

/** For requests. Names that are in snake_case already stay, so that a body of the REST API can be given as it is. */
export function snakeize(value: unknown): unknown {
  return renamed(value, snakeName);
}

function renamed(value: unknown, rename: (name: string) => string): unknown {
  if (Array.isArray(value)) return value.map((item) => renamed(item, rename));
  if (value === null || typeof value !== "object") return value;
  const item = (name: string, below: unknown): unknown => {
    return rows.has(name) || (maps.has(name) && !Array.isArray(below)) ? below : renamed(below, rename);
  };
  return Object.fromEntries(Object.entries(value).map(([name, below]) => [rename(name), item(snakeName(name), below)]));
}
