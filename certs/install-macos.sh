#!/bin/sh
# Puts pullthrough's CA into the System keychain of macOS, looks whether it is trusted, or takes it out.
#
#   install-macos.sh check     CA.pem    0 if the system trusts it, 1 if not
#   install-macos.sh install   CA.pem    may be repeated
#   install-macos.sh uninstall CA.pem    may be repeated
#
# Compare the fingerprint that it prints with "pullthrough ca show". Docker Desktop takes CAs from the keychain when
# it starts.
set -eu

keychain=/Library/Keychains/System.keychain

say() { printf '%s\n' "$*"; }
fail() { printf 'install-macos.sh: %s\n' "$*" >&2; exit 1; }
usage() { printf 'usage: install-macos.sh check|install|uninstall CA.pem\n' >&2; exit 2; }

need_root() { [ "$(id -u)" = 0 ] || fail "$1 needs root (sudo)"; }

read_ca() {
    [ -r "$1" ] || fail "$1 cannot be read"
    [ "$(grep -c '^-----BEGIN CERTIFICATE-----' "$1")" = 1 ] || fail "$1 is not one certificate in PEM"
    said=$(openssl x509 -in "$1" -noout -fingerprint -sha256) || fail "$1 is no certificate"
    say "SHA-256 fingerprint ${said#*=}"
    said=$(openssl x509 -in "$1" -noout -fingerprint -sha1)
    sha1=$(printf '%s' "${said#*=}" | tr -d ':') # by which `security` knows certificates
}

in_keychain() { security find-certificate -a -Z "$keychain" | grep -qi "^SHA-1 hash: $sha1"; }
trusted() { in_keychain && security verify-cert -c "$1" >/dev/null 2>&1; }

check() {
    if trusted "$1"; then
        say "trusted: it is in $keychain"
    else
        say "not trusted"
        return 1
    fi
}

install() {
    need_root install
    if trusted "$1"; then
        say "nothing to do"
        return
    fi
    security add-trusted-cert -d -r trustRoot -k "$keychain" "$1" || fail "security did not add it"
    say "trusted: $keychain"
}

uninstall() {
    need_root uninstall
    if ! in_keychain; then
        say "nothing to do"
        return
    fi
    security remove-trusted-cert -d "$1" || say "it had no trust settings"
    security delete-certificate -Z "$sha1" "$keychain" || fail "security did not remove it"
    say "removed from $keychain"
}

main() {
    [ $# = 2 ] || usage
    case $1 in
        check | install | uninstall)
            read_ca "$2"
            "$1" "$2"
            ;;
        *) usage ;;
    esac
}

main "$@"
