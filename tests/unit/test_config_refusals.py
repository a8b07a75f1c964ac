"""Each fault of a configuration file is refused with its line, its key and what to do."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest

from agent.config.loader import load_config
from agent.runtime.errors import ConfigError

GOOD = """\
version: 1
device: {id: line-3, name: Line 3}
models:
  inspect:
    package: inspect-1.0.0
    engine: auto
    precision: fp32
    batching: {max_size: 4, max_delay_ms: 0}
    options: {threads: 2}
cameras:
  front:
    source: {type: file, path: clip.mp4, loop: true}
    rate_hz: 15
    priority: 1
    classify:
      - model: inspect
        name: whole
        roi: [0, 0, 1, 1]
      - model: inspect
        name: part
        when: {classifier: whole, labels: [dent]}
        decide: {enter: 0.7, exit: 0.5, votes: 3, window: 5}
mqtt:
  broker: mqtt://127.0.0.1:1883
  username: agent
  results: {qos: 0}
state_dir: auto
"""


@dataclass(frozen=True)
class Bad:
    """``old`` of the good file replaced by ``new``; the fault is on the line with ``where`` and says ``words``."""

    name: str
    old: str
    new: str
    where: str
    words: tuple[str, ...]


def bad(name: str, old: str, new: str, *words: str, where: str | None = None) -> Bad:
    return Bad(name, old, new, new.strip().splitlines()[0] if where is None else where, words)


YAML = [
    bad("no-is-false", "loop: true", "loop: no", "unquoted no", "true or false"),
    bad("on-is-true", "loop: true", "loop: on", "unquoted on"),
    bad("octal", "rate_hz: 15", "rate_hz: 010", "unquoted 010", "octal"),
    bad("base-60", "rate_hz: 15", "rate_hz: 12:30", "unquoted 12:30", "base-60"),
    bad("underscore", "rate_hz: 15", "rate_hz: 1_000", "unquoted 1_000"),
    bad("date", "name: Line 3", "name: 2026-01-02", "unquoted 2026-01-02", "date"),
    bad("not-a-number", "rate_hz: 15", "rate_hz: .nan", "finite"),
    bad("infinity", "rate_hz: 15", "rate_hz: .inf", "finite"),
    bad("repeated-key", "    priority: 1\n", "    rate_hz: 16\n", "rate_hz", "twice", "line 13"),
    bad("repeated-section", "state_dir: auto", "device: {id: other}", "'device'", "twice", "line 2"),
    bad("alias", "  results: {qos: 0}", "  results: *all", "alias *all"),
    bad("anchor", "  results: {qos: 0}", "  results: &all {qos: 0}", "anchor &all"),
    bad("merge-key", "  results: {qos: 0}", "  <<: {}", "<<"),
    bad("tag", "name: Line 3", "name: !!python/object:os.system x", "tag", "quote"),
    bad("second-document", "state_dir: auto", "---\nversion: 1", "second document"),
    bad("tab", "    rate_hz: 15", "\trate_hz: 15", "not valid YAML", "a tab", "blanks"),
    bad("unclosed-bracket", "roi: [0, 0, 1, 1]", "roi: [0, 0, 1, 1", "not valid YAML", "`[`", "`]`"),
    bad("number-as-key", "  front:", "  7:", "the key 7 is a number", '"7"'),
    bad("null-as-key", "state_dir: auto", "~: auto", "a key must be text"),
    bad("control-character", "name: Line 3", 'name: "Line\\u0007"', "device.name", "U+0007"),
    bad("null-character", "path: clip.mp4", 'path: "clip\\0.mp4"', "cameras.front.source.path", "U+0000"),
    bad("half-a-surrogate", "name: Line 3", 'name: "\\ud800"', "U+D800"),
]  # fmt: skip

KEYS = [
    bad("unknown-at-top", "state_dir: auto", "state-dir: auto", "state-dir: unknown key", "`state_dir`"),
    bad("unknown-in-device", "name: Line 3", "nmae: Line 3", "device.nmae: unknown key", "`name`"),
    bad("unknown-in-model", "    precision: fp32", "    precison: fp32", "models.inspect.precison", "`precision`"),
    bad("unknown-in-batching", "max_delay_ms: 0", "max_delay: 0", "batching.max_delay", "`max_delay_ms`"),
    bad("unknown-in-camera", "rate_hz: 15", "rate: 15", "cameras.front.rate: unknown", "`rate_hz`"),
    bad("key-of-another-source", "loop: true", "fps: 30", "source.fps: unknown key", "type, path, loop"),
    bad("unknown-in-classifier", "roi: [0", "rio: [0", "classify[0].rio", "`roi`"),
    bad("unknown-in-decide", "votes: 3", "vote: 3", "classify[1].decide.vote", "`votes`"),
    bad("unknown-in-when", "labels: [dent]", "label: [dent]", "when.label", "`labels`"),
    bad("unknown-in-mqtt", "  username: agent", "  user: agent", "mqtt.user: unknown key", "`username`"),
    bad("password-in-the-file", "  username: agent", "  password: hunter2", "mqtt.password: unknown", "password_file"),
    bad("nothing-near", "state_dir: auto", "zzz: 1", "zzz: unknown key", "allowed here: version"),
    bad("missing-version", "version: 1\n", "", "version: is missing", where="device:"),
    bad("missing-package", "    package: inspect-1.0.0\n", "", "models.inspect.package: is missing",
        where="  inspect:"),
    bad("missing-source-type", "type: file, ", "", "source.type: is missing", "file", "rtsp", where="source:"),
    bad("missing-path", "path: clip.mp4, ", "", "source.path: is missing", where="source:"),
    bad("missing-model", "      - model: inspect\n        name: part", "      - name: part",
        "classify[1].model: is missing"),
]  # fmt: skip

TYPES = [
    bad("wrong-version", "version: 1", "version: 2", "version: 2 is not allowed", "give 1"),
    bad("version-with-a-point", "version: 1", "version: 1.0", "version: 1.0 is not allowed", "give 1"),
    bad("version-true", "version: 1", "version: true", "version: true is not allowed"),
    bad("qos-true", "{qos: 0}", "{qos: true}", "mqtt.results.qos: true is not allowed", "one of 0, 1"),
    bad("number-in-quotes", "rate_hz: 15", 'rate_hz: "15"', "without quotes: 15", "above 0 and at most 1000"),
    bad("truth-in-quotes", "loop: true", 'loop: "true"', "without quotes: true"),
    bad("text-for-number", "rate_hz: 15", "rate_hz: fast", "this text is not allowed", "a number", "null"),
    bad("fraction-for-whole-number", "max_size: 4", "max_size: 4.5", "4.5 is not allowed", "a whole number, 1 to 64"),
    bad("truth-for-number", "priority: 1", "priority: true", "priority: true is not allowed", "1 to 9"),
    bad("number-for-text", "package: inspect-1.0.0", "package: 10", "10 is not allowed", "text"),
    bad("list-for-section", "device: {id: line-3, name: Line 3}", "device: [a]", "device: a list", "id, name"),
    bad("text-for-section", "  results: {qos: 0}", "  results: fast", "this text", "qos, max_hz"),
    bad("empty-section", "  results: {qos: 0}", "  results:", "mqtt.results: is empty", "qos"),
    bad("section-for-list", "labels: [dent]", "labels: {dent: 1}", "a section is not allowed", "a list"),
    bad("number-in-list-of-text", "labels: [dent]", "labels: [5]", "labels[0]: 5 is not allowed", "text"),
    bad("list-for-option", "{threads: 2}", "{threads: [2]}", "options.threads: a list", "a number or text"),
    bad("text-for-source", "source: {type: file, path: clip.mp4, loop: true}", "source: clip.mp4", "`type:`", "rtsp"),
]  # fmt: skip

VALUES = [
    bad("device-id-with-space", "id: line-3", "id: Line 3!", "`Line 3!`", "auto or 1 to 64 lower-case letters"),
    bad("model-name", "  inspect:", "  In spect: {package: a}\n  inspect:", "this name is not allowed", "lower-case"),
    bad("camera-name-too-long", "  front:", f"  {'f' * 65}:", "this name is not allowed"),
    bad("precision", "precision: fp32", "precision: fp61", "one of fp32, fp16, int8", "`fp16`"),
    bad("source-type", "type: file", "type: flie", "source.type: `flie`", "`file`", "v4l2"),
    bad("rate-of-zero", "rate_hz: 15", "rate_hz: 0", "0 is not allowed", "above 0"),
    bad("priority-range", "priority: 1", "priority: 10", "1 to 9"),
    bad("batch-range", "max_size: 4", "max_size: 65", "1 to 64"),
    bad("ratio-range", "enter: 0.7", "enter: 70", "decide.enter: 70", "0 to 1"),
    bad("roi-of-three", "roi: [0, 0, 1, 1]", "roi: [0, 0, 1]", "roi: has 3 values", "4 values"),
    bad("roi-in-pixels", "roi: [0, 0, 1, 1]", "roi: [0, 0, 640, 1]", "roi[2]: 640", "0 to 1"),
    bad("roi-without-area", "roi: [0, 0, 1, 1]", "roi: [0.5, 0, 0.5, 1]", "no area", "x1 must be above x0"),
    bad("exit-above-enter", "exit: 0.5", "exit: 0.9", "exit 0.9 is above enter 0.7", "lower exit"),
    bad("votes-above-window", "votes: 3", "votes: 6", "votes 6 do not fit in window 5"),
    bad("votes-above-the-usual-window", "votes: 3, window: 5", "votes: 6", "votes 6 do not fit in window 5"),
    bad("seconds-beside-votes", "window: 5", "hold_s: 3", "votes 3 counts results, but hold_s 3 is in seconds"),
    bad("seconds-beside-window", "votes: 3", "hold_s: 3", "window 5 counts results, but hold_s 3 is in seconds"),
    bad("window-s-alone", "window: 5", "window_s: 5", "hold_s does not say", "give hold_s"),
    bad("hold-above-window-s", "votes: 3, window: 5", "hold_s: 6, window_s: 5", "hold_s 6 does not fit in window_s 5"),
    bad("hold-of-nothing", "votes: 3, window: 5", "hold_s: 0", "decide.hold_s: 0 is not allowed", "above 0"),
    bad("stale-for-unknown", "window: 5", "window: 5, unknown: stale", "`stale` is the word while none come"),
    bad("label-unknown-key", "window: 5", "window: 5, labels: {dent: {entry: 1}}", "labels.dent.entry", "`enter`"),
    bad("label-exit-above", "window: 5", "window: 5, labels: {a: {enter: 0.5, exit: 0.6}}", "labels.a", "0.6 is"),
    bad("label-votes-above", "window: 5", "window: 5, labels: {a: {votes: 6}}", "labels.a: votes 6 do not fit"),
    bad("label-in-seconds", "window: 5", "window: 5, labels: {a: {hold_s: 2}}", "the other labels count votes"),
    bad("label-counts", "votes: 3, window: 5", "hold_s: 3, labels: {a: {votes: 2}}", "votes 2 counts results, but"),
    bad("label-holds-too-long", "votes: 3, window: 5", "hold_s: 3, window_s: 4, labels: {a: {hold_s: 5}}",
        "decide.labels.a: hold_s 5 does not fit in window_s 4"),
    bad("no-classifier", "cameras:\n", "cameras:\n  back: {source: {type: pattern}, classify: []}\n",
        "back.classify: an empty list", "at least one entry", where="  back:"),
    bad("no-labels", "labels: [dent]", "labels: []", "when.labels: an empty list", "at least one"),
    bad("mean-behind-a-gate", "labels: [dent]}", "labels: [dent]}\n        mean_with: whole",
        "when waits for labels of whole, but mean_with takes every frame of whole", where="when"),
    bad("broker-address", "mqtt://127.0.0.1:1883", "tcp://127.0.0.1:1883", "mqtt.broker", "mqtt://host:1883"),
    bad("broker-typo", "mqtt://127.0.0.1:1883", "mqqt://hall:1883", "did you mean mqtt://?", "mqtt://host:1883"),
    bad("no-state-directory", "state_dir: auto", 'state_dir: ""', "state_dir", "text that is not empty"),
    bad("no-device", "{type: file, path: clip.mp4, loop: true}", "{type: v4l2, device: ''}",
        "device", "give the path of one device file, such as /dev/video0"),
    bad("pixel-format", "{type: file, path: clip.mp4, loop: true}", "{type: v4l2, fourcc: MJPEG}",
        "this text is not allowed", "4 letters, digits or blanks such as MJPG"),
    bad("broker-port", "mqtt://127.0.0.1:1883", "mqtt://127.0.0.1:99999", "port 99999", "1 to 65535"),
    bad("certificate-without-key", "mqtt://127.0.0.1:1883", "mqtts://h\n  tls: {cert_file: a.pem}",
        "cert_file and key_file belong", where="tls:"),
    bad("topic-prefix", "  username: agent", "  prefix: edge/#", "mqtt.prefix: this text", "topic levels"),
    bad("client-id", "  username: agent", "  client_id: a b", "mqtt.client_id", "or null"),
    bad("keepalive-range", "  username: agent", "  keepalive_s: 1", "5 to 600"),
]  # fmt: skip

_A, _B = "mqtt://127.0.0.1:1883", "  username: agent"
WAYS = [
    bad("address-in-a-list", _A, "[mqtt://a, tcp://b]", "mqtt.broker[1]: broker must look like"),
    bad("number-in-a-list", _A, "[mqtt://a, 5]", "mqtt.broker[1]: 5 is not allowed; give text"),
    bad("number-as-address", _A, "5", "mqtt.broker: 5 is not allowed; give text or a list", where="broker: 5"),
    bad("address-twice", _A, "[mqtt://a, 'mqtt://a:1883']", "mqtt.broker[1]: mqtt://a:1883 is there twice"),
    bad("no-address", _A, "[]", "mqtt.broker: has 0 addresses; give 1 to 8"),
    bad("too-many-addresses", _A, f"[{', '.join(f'mqtt://a{n}' for n in range(9))}]", "has 9 addresses"),
    bad("embedded-in-a-list", _A, "[mqtt://a, embedded]", "mqtt.broker[1]: `embedded` cannot be one of several"),
    bad("path-of-tcp", _A, "mqtt://a/mqtt", "mqtt.broker: broker has a path", "must look like"),
    bad("query-of-a-websocket", _A, "wss://a/mqtt?key=hunter2", "mqtt.broker: broker must look", "header_files"),
    bad("relative-unix-socket", _A, "unix://mosquitto.sock", "unix:///run/mosquitto.sock"),
    bad("long-unix-socket", _A, f"unix:///{'s' * 107}", "has 108 bytes, but the system allows 107"),
    bad("alpn", _A, 'mqtts://a\n  tls: {alpn: "a b"}', "mqtt.tls.alpn: this text", "printable ASCII", where="tls:"),
    bad("server-name", _A, "mqtts://a\n  tls: {server_name: 'a:1'}", "mqtt.tls.server_name", "a host name",
        where="tls:"),
    bad("key-password-without-key", _A, "mqtts://a\n  tls: {key_password_file: a}", "the password of key_file, but",
        where="tls:"),
    bad("key-in-hardware", _A, "mqtts://a\n  tls: {cert_file: a, key_file: 'pkcs11:object=a'}",
        "mqtt.tls.key_file: key_file is a PKCS#11 URI, but", "docs/brokers.md", where="tls:"),
    bad("header-of-the-handshake", _A, "ws://a\n  websocket: {header_files: {Host: a}}",
        "header_files.Host: the handshake sets Host itself", where="websocket:"),
    bad("header-twice", _A, "ws://a\n  websocket: {header_files: {X-Key: a, x-key: b}}", "X-Key is given twice",
        where="websocket:"),
    bad("header-name", _A, 'ws://a\n  websocket: {header_files: {"a b": a}}', "this name is not allowed",
        "an HTTP header", where="websocket:"),
    bad("header-without-websocket", _B, "  websocket: {header_files: {X-Key: a}}", "X-Key would be ignored", "ws://"),
    bad("proxy-address", _B, "  proxy: {url: 'https://p:443'}", "mqtt.proxy.url: url of the proxy"),
    bad("proxy-with-a-password", _B, "  proxy: {url: 'http://me:hunter2@p'}", "mqtt.proxy.url: url of the proxy"),
    bad("proxy-port", _B, "  proxy: {url: 'socks5://p:0'}", "port 0 is outside 1 to 65535"),
    bad("proxy-without-address", _B, "  proxy: {username: a}", "mqtt.proxy.url: is missing"),
    bad("proxy-user-without-password", _B, "  proxy: {url: 'http://p', username: a}", "belong together"),
    bad("proxy-user-with-a-colon", _B, "  proxy: {url: 'http://p', username: 'a:b', password_file: c}",
        "holds a colon, but HTTP"),
    bad("proxy-user-too-long", _B, f"  proxy: {{url: 'http://p', username: {'é' * 128}, password_file: c}}",
        "longer than 255 bytes"),
    bad("proxy-for-nobody", _A, "unix:///s\n  proxy: {url: 'http://p'}", "the proxy would be ignored", where="proxy:"),
    bad("user-name-too-long", _B, f"  username: {'é' * 32768}", "username has 65536 bytes, but MQTT carries 65535"),
    bad("return-range", _B, "  return_after_s: 5", "10 to 86400"),
    bad("profile", _B, "  profile: aws", "mqtt.profile: `aws`", "aws-iot"),
]  # fmt: skip

CROSS = [
    bad("no-such-model", "- model: inspect\n        name: whole", "- model: inspcet\n        name: whole",
        "no model `inspcet`", "`inspect`"),
    bad("no-such-engine", "engine: auto", "engine: tensort", "no engine `tensort`", "`tensorrt`"),
    bad("no-such-provider", "engine: auto", "engine: ort-cpuu", "no engine `ort-cpuu`", "`ort-cpu`"),
    bad("two-classifiers-of-one-name", "name: part\n        when: {classifier: whole, labels: [dent]}",
        "name: whole", "two classifiers named `whole`", "line 16", where="name: whole\n        decide"),
    bad("two-classifiers-of-one-model", "        name: part\n", "      - model: inspect\n",
        "two classifiers named `inspect`", "line 19", where="- model: inspect\n        when:"),
    bad("gate-of-nobody", "classifier: whole", "classifier: whloe", "no classifier `whloe`", "`whole`",
        where="classifier: whloe"),
    bad("gate-of-itself", "classifier: whole", "classifier: part", "`part` waits for itself"),
    bad("gates-in-a-circle", "        roi: [0, 0, 1, 1]", "        when: {classifier: part, labels: [ok]}",
        "whole -> part -> whole"),
    bad("mean-with-nobody", "when: {classifier: whole, labels: [dent]}", "mean_with: whloe",
        "no classifier `whloe`", "`whole`", where="mean_with"),
    bad("mean-with-itself", "when: {classifier: whole, labels: [dent]}", "mean_with: part", "`part` waits for itself"),
    bad("mean-and-gate-in-a-circle", "        roi: [0, 0, 1, 1]", "        mean_with: part", "whole -> part -> whole"),
    bad("mean-of-one-model", "when: {classifier: whole, labels: [dent]}", "mean_with: whole",
        "`part` takes the mean with `whole`, but both run the model `inspect` on the same region", where="mean_with"),
    bad("features-of-an-engine-without", "    engine: auto", "    engine: tensorrt\n    features: true",
        "features is true, but the engine `tensorrt` gives scores only", "ort-cpu", where="features"),
    bad("certificates-without-tls", "  username: agent", "  tls: {ca_file: ca.pem}", "ca_file would be ignored",
        "mqtts://"),
]  # fmt: skip


def refusal(path: Path, text: str) -> ConfigError:
    path.write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config(path, check_files=False)
    return caught.value


def line_of(text: str, where: str) -> int:
    assert where in text
    return text.count("\n", 0, text.index(where)) + 1


@pytest.mark.parametrize("case", [*YAML, *KEYS, *TYPES, *VALUES, *WAYS, *CROSS], ids=lambda case: case.name)
def test_fault_is_refused_with_its_line_and_what_to_do(tmp_path: Path, case: Bad) -> None:
    assert GOOD.count(case.old), "the case must change the good file"
    text = GOOD.replace(case.old, case.new, 1)
    path = tmp_path / "agent.yaml"
    error = refusal(path, text)
    assert error.exit_code == 78
    faults = error.message.splitlines()
    assert len(faults) == 1, f"one fault, one line:\n{error.message}"
    assert faults[0].startswith(f"{path}:{line_of(text, case.where)}:")
    for word in case.words:
        assert word in faults[0]
    assert "hunter2" not in faults[0]


def test_the_file_that_the_faults_are_put_into_is_good(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text(GOOD)
    assert load_config(path, check_files=False).device_id == "line-3"


def test_all_faults_of_a_file_are_reported_at_once_in_the_order_of_lines(tmp_path: Path) -> None:
    text = GOOD
    for old, new in [
        ("id: line-3", "id: LINE"),
        ("precision: fp32", "precison: fp32"),
        ("rate_hz: 15", "rate_hz: -1"),
        ("classifier: whole", "classifier: nobody"),
        ("qos: 0", "qos: 7"),
    ]:
        text = text.replace(old, new)
    path = tmp_path / "agent.yaml"
    first, *faults = refusal(path, text).message.splitlines()
    assert first == f"{path} has 5 faults:"
    assert [int(line.removeprefix(f"  {path}:").split(":")[0]) for line in faults] == [2, 7, 13, 21, 26]


def test_a_secret_put_in_a_wrong_place_is_not_repeated(tmp_path: Path) -> None:
    text = GOOD.replace("  username: agent", "  password: hunter2\n  password_file: 31337")
    text = text.replace("mqtt://127.0.0.1:1883", "mqtt://me:hunter2@host")
    message = refusal(tmp_path / "agent.yaml", text).message
    assert "hunter2" not in message
    assert "31337" not in message
    for broker in ("mqtt://hunter2@host", "me:hunter2@host", "mqtt://me:hunter2", "mqtt:hunter2"):
        assert "hunter2" not in refusal(tmp_path / "agent.yaml", GOOD.replace("mqtt://127.0.0.1:1883", broker)).message


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", ":1: the file is empty"),
        (b"# nothing but a comment\n", ":1: the file is empty"),
        (b"- version: 1\n", ":1: the file must be lines of `key: value`"),
        (b"just text\n", ":1: the file must be lines of `key: value`"),
        (b"version: 1\nname: caf\xe9\n", ":2: the file is not UTF-8"),
        (b"#" * (1 << 21), "the limit is"),
        (b"[" * 3000, "nested deeper than"),
        (b"a: " + b"[a, " * 60 + b"]" * 60, "nested deeper than"),
    ],
)
def test_what_is_no_configuration_at_all_is_refused(tmp_path: Path, content: bytes, words: str) -> None:
    path = tmp_path / "agent.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert str(path) in caught.value.message
    assert words in caught.value.message


def test_a_file_that_is_not_there_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"missing\.yaml cannot be read: No such file"):
        load_config(tmp_path / "missing.yaml")


def test_a_directory_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is not a file"):
        load_config(tmp_path)
