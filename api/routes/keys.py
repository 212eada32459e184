"""API keys, for admins: make, list, revoke."""

from __future__ import annotations

from fastapi import APIRouter, Depends

from api.deps import Audit, JsonBody, KeyId, PageDep, ServicesDep, admin
from llm_platform import keys
from llm_platform.specs.keys import Key, KeyCreated, KeyRequest
from llm_platform.specs.resources import Page

router = APIRouter(prefix="/keys", tags=["keys"], dependencies=[Depends(admin)])

# As for jobs: read by `JsonBody`, described here.
_BODY = {"required": True, "content": {"application/json": {"schema": {"$ref": f"#/components/schemas/{KeyRequest.__name__}"}}}}


@router.post("", openapi_extra={"requestBody": _BODY})
def create(body: JsonBody, services: ServicesDep, audit: Audit) -> KeyCreated:
    """Makes a key for a user. The answer is the only place where the key itself ever appears."""
    made = keys.create(keys.parse_request(body), services.database)
    audit("key.create", made.key_id)
    return made


@router.get("")
def list_keys(services: ServicesDep, page: PageDep) -> Page[Key]:
    """Keys, newest first, also those that are no longer valid; never the keys themselves."""
    found, total = keys.listed(services.database, page.limit, page.offset)
    return Page(items=found, **page.bounds(total))


@router.delete("/{key_id}")
def revoke(key_id: KeyId, services: ServicesDep, audit: Audit) -> Key:
    """Ends a key, at once and for good."""
    revoked = keys.revoke(key_id, services.database)
    audit("key.revoke", key_id)
    return revoked
