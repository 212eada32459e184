/** Which names are converted, held against the API's own description. */

import assert from "node:assert/strict";
import { readFile } from "node:fs/promises";
import { test } from "node:test";

import { camelize, snakeize, MAPS, ROWS } from "../dist/casing.js";

/**
 * @typedef {{ type?: string, additionalProperties?: unknown, anyOf?: Schema[], items?: Schema }} Schema
 * @type {{ components: { schemas: Record<string, { properties?: Record<string, Schema> }> } }}
 */
const { components } = JSON.parse(await readFile(new URL("../openapi.json", import.meta.url), "utf8"));

/** What a schema refers to, and what that refers to. @type {(schema: unknown, found?: Set<string>) => Set<string>} */
function referred(schema, found = new Set()) {
  for (const [, name] of JSON.stringify(schema).matchAll(/"#\/components\/schemas\/(\w+)"/g)) {
    if (name && !found.has(name)) referred(components.schemas[name], found.add(name));
  }
  return found;
}

/** Settings of agents, which are data: they lie below `config` and `training`. */
const settings = referred(components.schemas["Node"]);
const named = Object.entries(components.schemas).filter(([name]) => !settings.has(name));
const properties = named.flatMap(([, schema]) => Object.entries(schema.properties ?? {}));

/** @type {(schema: Schema | undefined) => boolean} */
const isMap = (schema) => Boolean(schema?.additionalProperties) || Boolean(schema?.anyOf?.some(isMap));
/** @type {(schema: Schema) => boolean} */
const areRows = (schema) => isMap(schema.items) || Boolean(schema.anyOf?.some(areRows));

test("whatever the API describes as a map, or as rows, keeps its keys", () => {
  const names = (/** @type {(schema: Schema) => boolean} */ kind) => properties.filter(([, schema]) => kind(schema)).map(([name]) => name);
  assert.deepEqual(names(isMap).filter((name) => !MAPS.includes(/** @type {any} */ (name))), []);
  assert.deepEqual([...new Set(names(areRows))], ROWS);
});

test("nothing else does", () => {
  const names = new Set(properties.map(([name]) => name));
  assert.deepEqual(MAPS.filter((name) => !names.has(name)), []);
});

test("every name of the API survives the way there and back", () => {
  const names = [...new Set(properties.map(([name]) => name))];
  const values = Object.fromEntries(names.map((name) => [name, 1]));
  assert.deepEqual(snakeize(camelize(values)), values);
});

test("names are converted, data is not", () => {
  const answer = { s3_path: "s", has_more: [{ no_trainable_token: null }], metrics: { final_loss: 1 }, samples: [{ my_column: { b_c: 1 } }] };
  const expected = { s3Path: "s", hasMore: [{ noTrainableToken: null }], metrics: { final_loss: 1 }, samples: [{ my_column: { b_c: 1 } }] };
  assert.deepEqual(camelize(answer), expected);
  const compared = { differences: [{ model_id: "m", differences: { final_loss: 1 } }] };
  assert.deepEqual(camelize(compared), { differences: [{ modelId: "m", differences: { final_loss: 1 } }] });
  assert.deepEqual(snakeize({ trainingConfig: { loraR: 1 }, run_id: "a", globalConfig: { maxRetries: 1 } }), {
    training_config: { loraR: 1 },
    run_id: "a",
    global_config: { max_retries: 1 },
  });
});
