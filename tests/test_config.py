"""Settings from flags, environment, file and defaults, and the sentence for what cannot be used."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path

import pytest

from pullthrough.config import ConfigError, Settings, default_data_dir, load, ports_without_door
from pullthrough.options import OPTIONS, Size

HOME = {"HOME": "/home/someone"}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A settings file, and one that settings can name."""
    (tmp_path / "corp.pem").write_text("certificates")
    return tmp_path / "pullthrough.toml"


@pytest.fixture
def samples(tmp_path: Path, file: Path) -> dict[str, str]:
    """A value other than the default for every setting, as a person writes it."""
    return {
        "listen": "[::1]:8080",
        "data_dir": str(tmp_path),
        "size": "1TiB",
        "min_free": "5%",
        "max_age": "90d",
        "max_fills": "8",
        "workers": "3",
        "scrub_interval": "7d",
        "tls_listen": "0.0.0.0:443 [::]:5050",
        "transparent_listen": "3129",
        "dns_listen": "53",
        "name": "cache.test",
        "advertise": "10.0.0.5 fd00::5",
        "resolver": "10.0.0.1",
        "registry": "a.test b.test:5050",
        "upstream_ca": str(tmp_path / "corp.pem"),
        "ca_cert": str(tmp_path / "corp.pem"),
        "ca_key": str(tmp_path / "corp.pem"),
        "discover": "true",
        "mirror_htpasswd": str(tmp_path / "corp.pem"),
        "mirror_network": "10.0.0.0/8 fd00::/8",
        "mirror_credentials": str(tmp_path / "corp.pem"),
        "mirror_helper": "ecr-login",
        "upstream_mirror": "docker.io=https://mirror.test/hub b.test:5050=http://cache.test:3128/b.test_5050",
        "upstream_credentials": str(tmp_path / "corp.pem"),
        "allow": "ghcr.io/team/**",
        "deny": "docker.io/evil/*",
        "cache_only": "ghcr.io",
        "bypass": "ghcr.io/team/nightly",
        "auth_broker": "false",
        "grant_ttl": "5m",
        "max_stale": "0",
        "offline_grace": "30d",
        "offline": "yes",
        "rate_limit_floor": "10",
        "log_format": "json",
        "log_level": "debug",
        "connect_timeout": "1s",
        "first_byte_timeout": "2s",
        "stall_timeout": "3s",
        "shutdown_grace": "4s",
    }


def refusal(
    flags: Mapping[str, object] | None = None,
    environ: Mapping[str, str] | None = None,
    file: Path | None = None,
) -> str:
    """The sentence with which these settings are refused."""
    with pytest.raises(ConfigError) as refused:
        load(flags or {}, environ or {}, file)
    sentence = str(refused.value)
    assert "\n" not in sentence
    return sentence


def test_the_defaults() -> None:
    settings = load({}, HOME)
    assert settings == Settings(
        listen=settings.listen,
        data_dir=default_data_dir(HOME),
        size=Size(50 * 1024**3),
        min_free=Size(64 * 1024**2),
        max_age=0.0,
        max_fills=64,
        workers=0,
        scrub_interval=30 * 24 * 3600.0,
        tls_listen=(),
        transparent_listen=(),
        dns_listen=(),
        name=(),
        advertise=(),
        resolver=(),
        registry=(),
        discover=False,
        upstream_ca=None,
        ca_cert=None,
        ca_key=None,
        mirror_htpasswd=None,
        mirror_network=(),
        mirror_credentials=None,
        mirror_helper=None,
        upstream_mirror=(),
        upstream_credentials=None,
        allow=(),
        deny=(),
        cache_only=(),
        bypass=(),
        auth_broker=True,
        grant_ttl=60.0,
        max_stale=7 * 86400.0,
        offline_grace=86400.0,
        offline=False,
        rate_limit_floor=1,
        log_format="text",
        log_level="info",
        connect_timeout=10.0,
        first_byte_timeout=15.0,
        stall_timeout=60.0,
        shutdown_grace=30.0,
    )
    assert settings.listen == ("0.0.0.0", 3128)
    assert settings.ca_dir == settings.data_dir / "ca"
    assert settings.connect_timeout + settings.first_byte_timeout < 30, "containerd waits no longer for headers"


def test_the_table_has_the_fields_of_the_settings() -> None:
    assert [field.name for field in dataclasses.fields(Settings)] == list(OPTIONS)


def test_every_setting_can_be_given_in_every_place(file: Path, samples: dict[str, str]) -> None:
    assert samples.keys() == OPTIONS.keys()
    file.write_text("".join(f"{name} = '{text}'\n" for name, text in samples.items()))
    from_file = load({}, HOME, file)
    from_environment = load({}, HOME | {OPTIONS[name].variable: text for name, text in samples.items()})
    from_flags = load(samples, HOME)
    assert from_file == from_environment == from_flags
    defaults = load({}, HOME)
    assert all(getattr(from_file, name) != getattr(defaults, name) for name in OPTIONS)


def test_a_flag_wins_over_the_environment_that_over_the_file_that_over_the_default(file: Path) -> None:
    file.write_text('size = "3GB"\nregistry = ["file.test"]\nlog_level = "error"\n')
    environ = HOME | {"PULLTHROUGH_SIZE": "2GB", "PULLTHROUGH_REGISTRY": "env.test"}
    settings = load({"size": "1GB", "registry": [], "log_level": None}, environ, file)
    assert settings.size == Size(1000**3)
    assert settings.registry == ("env.test:443",)
    assert settings.log_level == "error"
    assert settings.log_format == "text"


def test_a_bad_value_that_is_overridden_does_no_harm(file: Path) -> None:
    file.write_text('size = "much"\n')
    assert load({"size": "1GB"}, HOME, file).size == Size(1000**3)


def test_a_file_may_use_toml_numbers_and_lists(file: Path) -> None:
    file.write_text("size = 1_000\nlisten = 8080\nconnect_timeout = 1.5\nregistry = ['a.test', 'B.test:5050']\n")
    settings = load({}, HOME, file)
    assert settings.size == Size(1000)
    assert settings.listen == ("0.0.0.0", 8080)
    assert settings.connect_timeout == 1.5
    assert settings.registry == ("a.test:443", "b.test:5050")


@pytest.mark.parametrize("value", ["true", "'true'", "'On'", "1", "'1'"])
def test_a_switch_in_a_file_is_a_boolean_or_its_word(file: Path, value: str) -> None:
    file.write_text(f"offline = {value}\n")
    assert load({}, HOME, file).offline is True


@pytest.mark.parametrize("word", ["true", "TRUE", "1", "yes", " on "])
def test_a_switch_in_a_variable_is_one_of_a_few_words(word: str) -> None:
    assert load({}, HOME | {"PULLTHROUGH_OFFLINE": word}).offline is True


def test_a_switch_that_is_turned_off_wins_over_what_is_below_it(file: Path) -> None:
    file.write_text("offline = true\n")
    assert load({"offline": False}, HOME | {"PULLTHROUGH_OFFLINE": "true"}, file).offline is False
    assert load({"offline": None}, HOME | {"PULLTHROUGH_OFFLINE": "false"}, file).offline is False
    assert load({"offline": None}, HOME, file).offline is True


def test_a_bad_switch_is_named_with_its_place(file: Path) -> None:
    fault = "'perhaps' is not true or false, yes or no, on or off, 1 or 0; for example true"
    assert refusal(environ={"PULLTHROUGH_OFFLINE": "perhaps"}) == f"environment PULLTHROUGH_OFFLINE: {fault}"
    file.write_text("offline = 'perhaps'\n")
    assert refusal(file=file) == f"file {file} key offline: {fault}"
    file.write_text("no_offline = true\n")
    assert refusal(file=file).endswith("key 'no_offline': there is no such setting, did you mean offline?")


@pytest.mark.parametrize("text", ["a.test,b.test", "a.test b.test", " a.test ,\tb.test,", "a.test,b.test:443,A.test"])
def test_registries_are_separated_by_commas_or_spaces_and_named_once(text: str) -> None:
    assert load({}, HOME | {"PULLTHROUGH_REGISTRY": text}).registry == ("a.test:443", "b.test:443")
    assert load({"registry": [text]}, HOME).registry == ("a.test:443", "b.test:443")


def test_the_environment_may_name_the_file_and_the_flag_wins(file: Path) -> None:
    file.write_text('size = "3GB"\n')
    other = file.with_name("other.toml")
    other.write_text('size = "4GB"\n')
    environ = HOME | {"PULLTHROUGH_CONFIG": str(file)}
    assert load({}, environ).size == Size(3 * 1000**3)
    assert load({}, environ, other).size == Size(4 * 1000**3)


def test_an_empty_variable_counts_as_unset() -> None:
    assert load({}, HOME | {"PULLTHROUGH_SIZE": "", "PULLTHROUGH_CONFIG": ""}) == load({}, HOME)


# The data folder


def test_root_keeps_its_data_under_var_lib(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    assert default_data_dir({"XDG_DATA_HOME": "/data"}) == Path("/var/lib/pullthrough")


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        ({"XDG_DATA_HOME": "/data", "HOME": "/home/someone"}, "/data/pullthrough"),
        ({"XDG_DATA_HOME": "data", "HOME": "/home/someone"}, "/home/someone/.local/share/pullthrough"),
        ({"XDG_DATA_HOME": "", "HOME": "/home/someone"}, "/home/someone/.local/share/pullthrough"),
        ({"HOME": "/home/someone"}, "/home/someone/.local/share/pullthrough"),
    ],
)
def test_others_keep_it_in_the_xdg_data_folder(
    monkeypatch: pytest.MonkeyPatch, environ: dict[str, str], expected: str
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert load({}, environ).data_dir == Path(expected)


def test_without_a_home_the_folder_must_be_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert refusal() == "environment HOME: names no folder; for example give --data-dir /var/lib/pullthrough"
    assert load({"data_dir": str(tmp_path)}, {}).data_dir == tmp_path


# Refusals


def test_a_bad_value_is_named_with_its_place_and_an_example(file: Path) -> None:
    fault = "'lots' is not a size in bytes, KB, MB, GB, TB or KiB, MiB, GiB, TiB, nor 10%; for example 50GiB"
    assert refusal({"size": "lots"}) == f"flag --size: {fault}"
    assert refusal(environ={"PULLTHROUGH_SIZE": "lots"}) == f"environment PULLTHROUGH_SIZE: {fault}"
    file.write_text('size = "lots"\n')
    assert refusal(file=file) == f"file {file} key size: {fault}"
    assert refusal(environ={"PULLTHROUGH_CONFIG": str(file)}) == f"file {file} key size: {fault}"


@pytest.mark.parametrize(
    ("name", "value", "sentence"),
    [
        (
            "listen",
            "nowhere",
            "is not HOST:PORT, [IPv6]:PORT or a port up to 65535; for example 0.0.0.0:3128",
        ),
        ("data_dir", "var", "'var' is not an absolute path; for example /srv/pullthrough"),
        ("data_dir", "/dev/null", "'/dev/null' is not a folder; for example /srv/pullthrough"),
        (
            "upstream_ca",
            "corp.pem",
            "'corp.pem' is not an absolute path; for example /etc/ssl/certs/corp.pem",
        ),
        (
            "upstream_ca",
            "/does/not/exist",
            "'/does/not/exist' cannot be read (No such file or directory); for example",
        ),
        ("upstream_ca", "/", "'/' cannot be read (Is a directory); for example"),
        ("ca_cert", "~/ca.pem", "'~/ca.pem' is not an absolute path"),
        ("registry", ["https://a.test"], "a.test"),
        ("log_format", "xml", "'xml' is not one of text, json; for example text"),
        ("log_level", "warn", "'warn' is not one of debug, info, warning, error; for example info"),
        ("connect_timeout", "soon", "'soon' is not a duration in ms, s, m, h or d; for example 10s"),
        ("stall_timeout", "0s", "'0s' is not between 1ms and 24h; for example 60s"),
        ("auth_broker", "nope", "'nope' is not true or false, yes or no, on or off, 1 or 0; for example false"),
        ("offline", "maybe", "'maybe' is not true or false, yes or no, on or off, 1 or 0; for example true"),
        ("grant_ttl", "0", "'0' is not between 1s and 10m; for example 60s"),
        ("max_stale", "11y", "'11y' is not a duration in ms, s, m, h or d; for example 7d"),
        ("offline_grace", "3651d", "'3651d' is not between 0 and 3650d; for example 24h"),
        ("rate_limit_floor", "-1", "'-1' is not a whole number from 0 to 999999999; for example 1"),
        ("log_format", "te\nxt", "'te\\nxt' is not one of"),
    ],
)
def test_bad_values(name: str, value: object, sentence: str) -> None:
    refused = refusal({name: value})
    assert refused.startswith(f"flag {OPTIONS[name].flag}: ")
    assert sentence in refused
    assert "; for example " in refused


@pytest.mark.parametrize(
    "toml",
    [
        "size = true",
        "size = [1]",
        "size = {a = 1}",
        "registry = [1979-05-27]",
        "registry = [['a']]",
        "registry = [true]",
        "rate_limit_floor = false",
        "max_stale = false",
        "offline = [true]",
        "offline = {}",
    ],
)
def test_a_value_of_another_kind_is_refused(file: Path, toml: str) -> None:
    file.write_text(toml)
    assert "is neither text nor a number" in refusal(file=file)


def test_an_unknown_key_or_variable_is_refused_with_the_nearest(file: Path) -> None:
    file.write_text('data-dir = "/srv"\n')
    assert refusal(file=file) == f"file {file} key 'data-dir': there is no such setting, did you mean data_dir?"
    file.write_text("[zzz]\n")
    assert refusal(file=file).endswith("key 'zzz': there is no such setting; pullthrough run --help lists them all")
    assert refusal(environ={"PULLTHROUGH_REGISTRIES": "a.test"}) == (
        "environment PULLTHROUGH_REGISTRIES: there is no such setting, did you mean PULLTHROUGH_REGISTRY?"
    )
    assert "PULLTHROUGH_QQQ: there is no such setting; pullthrough run" in refusal(environ={"PULLTHROUGH_QQQ": "1"})


def test_what_kubernetes_puts_into_every_pod_is_no_setting() -> None:
    service = {
        "PULLTHROUGH_CACHE_SERVICE_HOST": "10.0.0.1",
        "PULLTHROUGH_CACHE_SERVICE_PORT": "3128",
        "PULLTHROUGH_CACHE_PORT": "tcp://10.0.0.1:3128",
        "PULLTHROUGH_CACHE_PORT_3128_TCP_ADDR": "10.0.0.1",
        "PULLTHROUGH_SERVICE_HOST": "10.0.0.2",
        "PULLTHROUGH_PORT_3128_TCP": "tcp://10.0.0.2:3128",
    }
    assert load({}, HOME | service) == load({}, HOME)
    assert "PULLTHROUGH_CACHE_SIZE" in refusal(environ=service | {"PULLTHROUGH_CACHE_SIZE": "1"})
    assert "PULLTHROUGH_PORT" in refusal(environ={"PULLTHROUGH_PORT": "3128"})


def test_a_file_that_cannot_be_read_is_named_with_who_named_it(tmp_path: Path) -> None:
    missing = tmp_path / "missing.toml"
    fault = f"{missing} cannot be read (No such file or directory); for example /etc/pullthrough.toml"
    assert refusal(file=missing) == f"flag --config: {fault}"
    assert refusal(environ={"PULLTHROUGH_CONFIG": str(missing)}) == f"environment PULLTHROUGH_CONFIG: {fault}"
    assert "Is a directory" in refusal(file=tmp_path)


def test_a_syntax_error_is_named_with_its_line(file: Path) -> None:
    file.write_text("size = 1\nlisten = nowhere\n")
    assert refusal(file=file).startswith(f"file {file}: ")
    assert "line 2" in refusal(file=file)
    file.write_bytes(b"size = '\xff'\n")
    assert refusal(file=file) == f"file {file}: is not UTF-8 text, which TOML files are"


def test_certificate_and_key_of_an_own_ca_go_together(tmp_path: Path, file: Path) -> None:
    pem = str(tmp_path / "corp.pem")
    alone = "flag --ca-cert: goes together with --ca-key, of which nothing is said; for example --ca-key /etc/"
    assert refusal({"ca_cert": pem}).startswith(alone)
    assert refusal(environ={"PULLTHROUGH_CA_KEY": pem}).startswith("environment PULLTHROUGH_CA_KEY: goes together")
    settings = load({"ca_cert": pem}, HOME | {"PULLTHROUGH_CA_KEY": pem})
    assert settings.ca_cert == settings.ca_key == Path(pem)


# -- what a name server of ours gives


@pytest.mark.parametrize(
    ("flags", "addresses"),
    [
        ({}, []),
        ({"dns_listen": ["10.0.0.5:53"]}, ["10.0.0.5"]),
        ({"dns_listen": ["10.0.0.5:53", "[fd00::5]:53"]}, ["10.0.0.5", "fd00::5"]),
        ({"dns_listen": ["53"], "advertise": ["10.0.0.6"]}, ["10.0.0.6"]),
        ({"dns_listen": ["10.0.0.5:53"], "advertise": ["fd00::6"]}, ["fd00::6"]),
    ],
)
def test_the_address_that_is_advertised(flags: dict[str, list[str]], addresses: list[str]) -> None:
    assert sorted(map(str, load(flags, HOME).advertise)) == addresses


@pytest.mark.parametrize("listener", ["53", "0.0.0.0:53", "[::]:53", "cache.test:53"])
def test_a_name_server_without_an_address_to_give_is_refused(listener: str) -> None:
    assert "--advertise 10.0.0.5" in refusal({"dns_listen": [listener]})


def test_two_addresses_of_one_family_are_refused() -> None:
    assert "one IPv4 and one IPv6" in refusal({"advertise": ["10.0.0.5", "10.0.0.6"]})


def test_a_table_is_the_beginning_of_its_keys_names(file: Path) -> None:
    file.write_text('[mirror]\nnetwork = ["10.0.0.0/8"]\nhelper = "ecr-login"\n')
    settings = load({}, HOME, file)

    assert (list(map(str, settings.mirror_network)), settings.mirror_helper) == (["10.0.0.0/8"], "ecr-login")


@pytest.mark.parametrize("text", ["[mirror]\nnetworks = 1\n", "[mirrors]\nnetwork = 1\n", "[mirror.network]\na = 1\n"])
def test_a_table_that_names_no_setting_is_refused(file: Path, text: str) -> None:
    file.write_text(text)

    assert "mirror" in refusal(file=file, environ=HOME)


@pytest.mark.parametrize("name", ["mirror_credentials", "mirror_helper"])
def test_credentials_are_not_for_everybody(name: str, samples: dict[str, str]) -> None:
    assert "--mirror-htpasswd" in refusal({name: samples[name]}, HOME)
    assert load({name: samples[name], "mirror_network": ["10.0.0.0/8"]}, HOME).mirror_network


@pytest.mark.parametrize(
    ("flags", "ports"),
    [
        ({"dns_listen": ["10.0.0.5:53"]}, [443]),
        ({"dns_listen": ["10.0.0.5:53"], "registry": ["r.test:5050", "plain.test:80"]}, [443, 5050]),
        ({"dns_listen": ["10.0.0.5:53"], "registry": ["r.test:5050"], "tls_listen": ["443", "[::]:443"]}, [5050]),
        ({"dns_listen": ["10.0.0.5:53"], "registry": ["r.test:5050"], "tls_listen": ["443", "5050"]}, []),
        ({"dns_listen": ["10.0.0.5:53"], "tls_listen": ["8443"]}, []),
        ({"registry": ["r.test:5050"], "tls_listen": ["443"]}, []),
    ],
)
def test_ports_to_which_our_name_server_leads_and_where_nobody_listens(
    flags: dict[str, list[str]], ports: list[int]
) -> None:
    assert ports_without_door(load(flags, HOME)) == ports


def test_mirrors_of_registries_may_stand_in_tables_of_their_own(file: Path) -> None:
    file.write_text(
        'registry = "r.test:5050"\n[upstream."docker.io"]\nmirrors = ["https://one.test", "https://two.test"]\n'
        '[upstream."r.test:5050"]\nmirrors = "http://cache.test:3128/r.test_5050"\n'
    )
    settings = load({}, HOME, file)

    assert [(str(mirror.registry), mirror.host) for mirror in settings.upstream_mirror] == [
        ("registry-1.docker.io:443", "one.test"),
        ("registry-1.docker.io:443", "two.test"),
        ("r.test:5050", "cache.test"),
    ]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('[upstream."docker.io"]\nmirror = ["https://one.test"]\n', """key 'mirror in [upstream."docker.io"]'"""),
        (
            'registry = "r.test"\n[upstream."r.test"]\nmirrors = []\nmirors = ["https://one.test"]\n',
            """mirors in [upstream."r.test"]': there is no such setting; the table of a registry has mirrors alone""",
        ),
        ('[upstream."docker.io"]\nmirrors = ["one test"]\n', "HOST=URL"),
        ('[upstream."docker.io"]\nmirrors = [{}]\n', "HOST=URL"),
    ],
)
def test_mirrors_that_cannot_be_read_are_refused(file: Path, text: str, words: str) -> None:
    file.write_text(text)

    assert words in refusal(file=file, environ=HOME)
