/** `client.keys` and `client.audit`: who may use the platform, and what was done; for admins. */

import type { components } from "./openapi.js";
import { Listing } from "./pages.js";
import type { Transport } from "./transport.js";
import type { AuditAction, AuditEntry, CallOptions, Key, KeyCreated, ListOptions, Scope } from "./types.js";

type Schemas = components["schemas"];

export interface KeyOptions extends CallOptions {
  /** "write" if not given; each of read, write and admin allows what those before it allow. */
  scope?: Scope;
  /** The key does not expire if not given. */
  expiresInDays?: number;
}

export interface AuditOptions extends ListOptions {
  /** Only what this user did. */
  actor?: string;
  action?: AuditAction;
  /** Only from this time on; a string is ISO 8601 with its zone. */
  since?: Date | string;
}

export class Keys {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Makes a key for a user. `key` of the answer is the key itself, which is shown nowhere else and never again. */
  create(owner: string, { scope = "write", expiresInDays, signal }: KeyOptions = {}): Promise<KeyCreated> {
    const json = { owner, scope, expires_in_days: expiresInDays ?? null };
    return this.#transport.json<Schemas["KeyCreated"]>({ method: "POST", path: "/keys", json, signal });
  }

  /** Newest first, also those that are no longer valid. */
  list({ limit = 20, offset = 0, signal }: ListOptions = {}): Listing<Key> {
    return new Listing(offset, (from) => this.#transport.json<Schemas["Page_Key_"]>({ path: "/keys", query: { limit, offset: from }, signal }));
  }

  /** Ends a key, at once and for good. */
  revoke(keyId: string, { signal }: CallOptions = {}): Promise<Key> {
    return this.#transport.json<Schemas["Key"]>({ method: "DELETE", path: `/keys/${encodeURIComponent(keyId)}`, repeat: true, signal });
  }
}

export class Audit {
  readonly #transport: Transport;

  constructor(transport: Transport) {
    this.#transport = transport;
  }

  /** Who did what, newest first. */
  list({ limit = 20, offset = 0, actor, action, since, signal }: AuditOptions = {}): Listing<AuditEntry> {
    const filters = { actor, action, since: since instanceof Date ? since.toISOString() : since };
    return new Listing(offset, (from) =>
      this.#transport.json<Schemas["Page_AuditEntry_"]>({ path: "/audit", query: { limit, offset: from, ...filters }, signal }),
    );
  }
}
