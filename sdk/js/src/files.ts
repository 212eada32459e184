/** The file system, where there is one. Taken without an import, so that bundlers for browsers do not stumble. */

type Fs = typeof import("node:fs");
type Path = typeof import("node:path");

interface Builtin {
  getBuiltinModule?(name: "node:fs"): Fs;
  getBuiltinModule?(name: "node:path"): Path;
}

const runtime = (globalThis as { process?: Builtin }).process;

/** Whether requests can be streamed and files be read and written by path. Browsers stream no requests over HTTP/1.1. */
export const hasFiles = runtime?.getBuiltinModule !== undefined;

function modules(): { fs: Fs; path: Path } {
  if (runtime?.getBuiltinModule === undefined) throw new TypeError("There are no file paths here: give a Blob, or take the stream");
  return { fs: runtime.getBuiltinModule("node:fs"), path: runtime.getBuiltinModule("node:path") };
}

/** A file to be read, as often as `open` is called. */
export async function fileAt(name: string): Promise<{ name: string; size: number; open: () => AsyncIterable<Uint8Array> }> {
  const { fs, path } = modules();
  const { size } = await fs.promises.stat(name);
  return { name: path.basename(name), size, open: () => fs.createReadStream(name, { highWaterMark: 2 ** 18 }) };
}

/** Writes the chunks to the file that `target` names, or to `name` in the folder that it names. Nothing appears there before all is written. */
export async function writeFile(target: string, name: string, chunks: AsyncIterable<Uint8Array>): Promise<string> {
  const { fs, path } = modules();
  const isFolder = await fs.promises.stat(target).then(
    (found) => found.isDirectory(),
    () => /[\\/]$/.test(target),
  );
  const file = isFolder ? path.join(target, path.basename(name)) : target;
  await fs.promises.mkdir(path.dirname(file), { recursive: true });
  const part = `${file}.${crypto.randomUUID()}.part`;
  try {
    await fs.promises.writeFile(part, chunks, { flag: "wx" });
    await fs.promises.rename(part, file);
  } finally {
    await fs.promises.rm(part, { force: true });
  }
  return file;
}
