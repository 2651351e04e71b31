"""Broker URLs and TLS files."""

from __future__ import annotations

import pytest

from device_agent.wire.mqtt_options import Endpoint, MqttOptions, TlsFiles, parse_url, tls_context
from firmware_profiles.errors import UserError


@pytest.mark.parametrize(
    ("url", "endpoint"),
    [
        ("mqtt://pi.local", Endpoint("pi.local", 1883, False)),
        ("mqtts://pi.local", Endpoint("pi.local", 8883, True)),
        ("mqtt://10.0.0.1:99/", Endpoint("10.0.0.1", 99, False)),
        ("mqtt://[::1]:99", Endpoint("::1", 99, False)),
        ("mqtt://anna:a%40b@host", Endpoint("host", 1883, False, "anna", "a@b")),
    ],
)
def test_a_url_names_host_port_and_user(url, endpoint):
    assert parse_url(url) == endpoint


def test_credentials_given_apart_go_before_those_in_the_url():
    endpoint = parse_url("mqtt://anna:old@host", username="ben", password="new")
    assert (endpoint.username, endpoint.password) == ("ben", "new")


@pytest.mark.parametrize(
    "url",
    [
        "",
        "host",
        "http://host",
        "mqtt://",
        "mqtt://host:0",
        "mqtt://host:70000",
        "mqtt://host:x",
        "mqtt://host/topic",
        "mqtt://host?a=b",
        "mqtt://:secret@host",
        "mqtt://[::1",
        "mqtt://anna:se#cret@host",
        "mqtt://anna:se/cret@host",
    ],
)
def test_an_unusable_url_is_the_users_error_and_shows_no_password(url):
    with pytest.raises(UserError) as error:
        parse_url(url)
    assert "cret" not in str(error.value)


def test_neither_repr_nor_text_of_an_endpoint_shows_the_password():
    endpoint = parse_url("mqtts://anna:secret@host")
    assert "secret" not in repr(endpoint) + str(endpoint)


def test_certificates_for_an_unencrypted_url_are_the_users_error():
    with pytest.raises(UserError, match="write mqtts://"):
        tls_context(parse_url("mqtt://host"), TlsFiles(ca_file="ca.crt"))


@pytest.mark.parametrize("name", ["missing.pem", "not-a-certificate.pem"])
def test_an_unusable_certificate_file_is_the_users_error_and_named(tmp_path, name):
    (tmp_path / "not-a-certificate.pem").write_text("hello")
    with pytest.raises(UserError, match=name):
        tls_context(parse_url("mqtts://host"), TlsFiles(ca_file=str(tmp_path / name)))


def test_an_unknown_mqtt_version_is_the_users_error():
    with pytest.raises(UserError, match=r"use 3\.1\.1 or 5"):
        MqttOptions(version="4")
