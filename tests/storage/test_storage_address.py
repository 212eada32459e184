from __future__ import annotations

import pytest

from llm_platform.errors import InvalidConfig
from llm_platform.storage import Address, parse_address

BUCKETS = ["datasets", "artifacts"]


@pytest.mark.parametrize("key", ["x.csv", "a/b/c.parquet", "ein Name.csv", "数据.csv", "a..b", "100%.csv", "x?y#z", "a/.hidden"])
def test_addresses_keep_their_key_to_the_letter(key: str) -> None:
    address = parse_address(f"s3://datasets/{key}", BUCKETS)
    assert address == Address("datasets", key)
    assert str(address) == f"s3://datasets/{key}"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.csv",
        "file:///etc/passwd",
        "/etc/passwd",
        "http://169.254.169.254/",
        "http://2852039166/",
        "http://[::ffff:169.254.169.254]/",
        "S3://datasets/x",
        " s3://datasets/x",
        "s3:/datasets/x",
        "s3:///x",
        "s3://datasets",
        "s3://datasets/",
        "s3://other-bucket/x",
        "s3://datasets@evil/x",
        "s3://datasets:80/x",
        "s3://DATASETS/x",
        "s3://../x",
        "s3://.tmp/x",
        "s3://datasets/../../x",
        "s3://datasets/a/../b",
        "s3://datasets/./x",
        "s3://datasets//x",
        "s3://datasets/x/",
        "s3://datasets/a//x",
        "s3://datasets/.uploads/x",
        "s3://datasets/%2e%2e/x",
        "s3://datasets/%252e%252e/x",
        "s3://datasets/a%2Fb",
        "s3://datasets/a\\..\\b",
        "s3://datasets/a\0b",
        "s3://datasets/a\nb",
        "s3://datasets/a\x7fb",
        "s3://datasets/a\u202eb",
        "s3://datasets/a\u2028b",
        "s3://datasets/\ud800",
        "s3://datasets/" + "a" * 256,
        "s3://datasets/" + "a/" * 600 + "x",
    ],
)
def test_everything_else_is_refused_and_the_field_named(text: str) -> None:
    with pytest.raises(InvalidConfig) as caught:
        parse_address(text, BUCKETS)
    assert [item["field"] for item in caught.value.metadata["errors"]] == ["file_path"]
    assert len(caught.value.message) < 300


def test_a_refused_bucket_is_told_what_is_allowed() -> None:
    with pytest.raises(InvalidConfig, match="artifacts, datasets"):
        parse_address("s3://secrets/x", BUCKETS)


def test_a_child_cannot_leave_its_folder() -> None:
    assert str(Address("artifacts", "a").child("b/c")) == "s3://artifacts/a/b/c"
    with pytest.raises(InvalidConfig):
        Address("artifacts", "a").child("../b")
