/** A real platform on a temporary home and a free port, started by `llm-platform up` as a user would. */

import { execFile, spawn } from "node:child_process";
import { existsSync } from "node:fs";
import { mkdtemp, open, readFile, rm } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";

const ROOT = fileURLToPath(new URL("../../../", import.meta.url));
const START_MILLISECONDS = 120_000;
/** Builds the tiny base model where the machine has none yet: two minutes, which are no job's fault. */
const ENSURE = "from llm_platform.settings import Settings; from llm_platform.training.tiny_llama import ensure; ensure(Settings().cache)";

/** @returns {Promise<{ baseUrl: string, stop: () => Promise<void> }>} */
export async function startPlatform() {
  const folder = await mkdtemp(join(tmpdir(), "llm-platform-js-"));
  const home = join(folder, "home");
  const venv = join(ROOT, ".venv/bin/python");
  const python = process.env["PYTHON"] ?? (existsSync(venv) ? venv : "python3");
  await promisify(execFile)(python, ["-c", ENSURE], { cwd: ROOT });
  const log = await open(join(folder, "log"), "w");
  const started = spawn(python, ["-m", "llm_platform", "up", "--home", home, "--port", "0"], {
    cwd: ROOT,
    env: { ...process.env, OMP_WAIT_POLICY: "PASSIVE", LLM_PLATFORM_RATE_LIMIT_DEFAULT: "1000000" },
    stdio: ["ignore", log.fd, log.fd],
  });
  const ended = new Promise((resolve) => started.once("close", resolve));
  await log.close();

  const stop = async () => {
    started.kill("SIGTERM");
    await ended;
    await rm(folder, { recursive: true, force: true });
  };

  for (let waited = 0; waited < START_MILLISECONDS && started.exitCode === null; waited += 100) {
    const url = await readFile(join(home, "services.json"), "utf8").then(
      (text) => JSON.parse(text).services.api?.url,
      () => undefined,
    );
    const health = url && (await fetch(`${url}/health`).catch(() => null));
    if (health?.ok) return { baseUrl: `${url}/api/v1`, stop };
    await sleep(100);
  }
  const said = await readFile(join(folder, "log"), "utf8");
  await stop();
  throw new Error(`The platform did not start:\n${said.slice(-4000)}`);
}
