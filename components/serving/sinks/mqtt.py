"""Detections as JSON, published to an MQTT broker."""

from __future__ import annotations

import json
import os
import uuid
from typing import Any
from urllib.parse import unquote, urlsplit

import paho.mqtt.client as paho
from paho.mqtt.enums import CallbackAPIVersion

from components.core.errors import InputError
from components.core.stores.addresses import shown
from components.serving.sinks.base import Result, Sink, sinks

SECONDS = 5.0  # for the connection, and for the broker's answer to one message
_PORTS = {"mqtt": 1883, "mqtts": 8883}


class Mqtt:
    """One message a frame, at least once (QoS 1), not retained. Connections that break are opened again.

    Args:
        address: ``mqtt://HOST/TOPIC`` or ``mqtts://HOST/TOPIC``; user and password may stand before the host, or in
            ``EDGE_MQTT_USER`` and ``EDGE_MQTT_PASSWORD``.

    Raises:
        InputError: no host, no topic, or a topic with wildcards.
    """

    needs_image = takes_masks = False  # a mask is more than brokers like to carry

    def __init__(self, address: str) -> None:
        self._name = shown(address)
        try:
            parts = urlsplit(address)
            port = parts.port or _PORTS[parts.scheme]
        except ValueError as error:
            raise InputError(f"sink {self._name}: not a valid address") from error
        self._topic = unquote(parts.path.strip("/"))
        if not parts.hostname or not self._topic or "+" in self._topic or "#" in address:
            raise InputError(f"sink {self._name}: write {parts.scheme}://HOST/TOPIC, a topic without + and #")
        self._host, self._port = parts.hostname, port
        self._client = paho.Client(CallbackAPIVersion.VERSION2, f"edge-{uuid.uuid4().hex[:12]}")
        self._client.connect_timeout = SECONDS
        self._client.max_queued_messages_set(1)  # what waits, waits in the worker, where it is counted
        user = unquote(parts.username or "") or os.environ.get("EDGE_MQTT_USER", "")
        if user:
            self._client.username_pw_set(user, unquote(parts.password or "") or os.environ.get("EDGE_MQTT_PASSWORD"))
        if parts.scheme == "mqtts":
            self._client.tls_set()
        self._started, self._refusal = False, ""  # why the broker refused the last connection
        self._client.on_connect = self._connected

    def write(self, result: Result) -> None:
        """Publish one result and wait for the broker's answer.

        Raises:
            InputError: the broker cannot be reached, refuses the connection, or does not answer.
        """
        self._connect()
        message = self._client.publish(self._topic, json.dumps(result.record()), qos=1)
        if message.rc != paho.MQTT_ERR_SUCCESS:
            raise self._error(paho.error_string(message.rc))
        message.wait_for_publish(SECONDS)
        if not message.is_published():
            raise self._error(f"the broker did not confirm a message within {SECONDS:g} s")

    def close(self) -> None:
        """End the connection."""
        self._client.disconnect()
        self._client.loop_stop()

    def _error(self, what: str) -> InputError:
        """What came of a message, or why no connection is there to send it by."""
        if self._refusal:
            what = f"the broker refuses the connection ({self._refusal}): check EDGE_MQTT_USER and EDGE_MQTT_PASSWORD"
        return InputError(f"{self._name}: {what}")

    def _connected(self, _client: object, _data: object, _flags: object, reason: Any, _properties: object) -> None:
        self._refusal = str(reason) if reason.is_failure else ""

    def _connect(self) -> None:
        if self._started:
            return
        try:
            self._client.connect(self._host, self._port)
        except (OSError, ValueError) as error:
            raise InputError(f"{self._name}: cannot be reached ({error})") from error
        self._client.loop_start()
        self._started = True


@sinks.register("mqtt")
def mqtt(target: str) -> Sink:
    """The sink ``mqtt://HOST/TOPIC``."""
    return Mqtt(f"mqtt:{target}")


@sinks.register("mqtts")
def mqtts(target: str) -> Sink:
    """The sink ``mqtts://HOST/TOPIC``."""
    return Mqtt(f"mqtts:{target}")
