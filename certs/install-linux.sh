#!/bin/sh
# Puts pullthrough's CA into the trust store of a Linux system, looks whether it is there, or takes it out.
#
#   install-linux.sh check     CA.pem    0 if the system trusts it, 1 if not
#   install-linux.sh install   CA.pem    may be repeated; takes the place of an earlier CA of pullthrough
#   install-linux.sh uninstall           may be repeated
#
# For Debian, Ubuntu, Alpine, Fedora, RHEL and kin, Arch, SUSE. Compare the fingerprint that it prints with
# "pullthrough ca show". Restart dockerd and containerd afterwards: they read the store when they start.
set -eu

say() { printf '%s\n' "$*"; }
fail() { printf 'install-linux.sh: %s\n' "$*" >&2; exit 1; }
usage() { printf 'usage: install-linux.sh check CA.pem | install CA.pem | uninstall\n' >&2; exit 2; }

# -- the same text as in addon/pullthrough/clients/setup.sh

# A file holds one certificate, and during a rotation of the CA two: the old one and the new one.
count_of() { grep -c '^-----BEGIN CERTIFICATE-----' "$1" || true; }

# pem_body NUMBER FILE: the base64 of one certificate, without line ends
pem_body() {
    awk -v wanted="$1" '
        /^-----BEGIN CERTIFICATE-----/ { number++; inside = 1; next }
        /^-----END/ { inside = 0 }
        inside && number == wanted { gsub(/[ \r]/, ""); printf "%s", $0 }' "$2"
}

as_pem() {
    echo '-----BEGIN CERTIFICATE-----'
    pem_body "$1" "$2" | fold -w 64
    printf '\n%s\n' '-----END CERTIFICATE-----'
}

# fingerprint_of NUMBER FILE: SHA-256 of a certificate, 64 small hexadecimal digits
fingerprint_of() {
    if command -v openssl >/dev/null; then
        as_pem "$1" "$2" | openssl x509 -noout -fingerprint -sha256 | sed 's/.*=//' | plain_fingerprint
    else
        pem_body "$1" "$2" | base64 -d | sha256sum | cut -d ' ' -f 1
    fi
}

plain_fingerprint() { tr -d ': \n' | tr '[:upper:]' '[:lower:]' | sed 's/^sha256//'; }
is_fingerprint() { case $1 in *[!0-9a-f]*) return 1 ;; esac; [ "${#1}" = 64 ]; }
shown_fingerprint() { printf '%s' "$1" | tr 'a-f' 'A-F' | sed 's/../&:/g; s/:$//'; }

# The store of this distribution: where administrators put CAs, what reads them in, and what comes out.
find_store() {
    again=
    if [ -d /etc/pki/ca-trust/source/anchors ]; then # Fedora, RHEL and kin
        anchor=/etc/pki/ca-trust/source/anchors/pullthrough.pem
        update='update-ca-trust extract'
        bundle=/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem
    elif [ -d /etc/pki/trust/anchors ]; then # SUSE
        anchor=/etc/pki/trust/anchors/pullthrough.pem
        update='update-ca-certificates'
        bundle=/etc/ssl/ca-bundle.pem
    elif [ -d /etc/ca-certificates/trust-source/anchors ]; then # Arch
        anchor=/etc/ca-certificates/trust-source/anchors/pullthrough.crt
        update='trust extract-compat'
        bundle=/etc/ca-certificates/extracted/tls-ca-bundle.pem
    elif [ -d /usr/local/share/ca-certificates ]; then # Debian, Ubuntu, Alpine
        anchor=/usr/local/share/ca-certificates/pullthrough.crt
        update='update-ca-certificates'
        bundle=/etc/ssl/certs/ca-certificates.crt
        again=--fresh # links of what was replaced or removed stay without it
    else
        fail "no trust store is known here: install the package ca-certificates"
    fi
    second=${anchor%.*}-2.${anchor##*.} # one certificate in a file, or OpenSSL's folder has no link to it
    command -v "${update%% *}" >/dev/null || fail "${update%% *} is missing: install the package ca-certificates"
}

# in_bundle NUMBER FILE: whether the store's result has this certificate
in_bundle() {
    [ -r "$bundle" ] && awk -v want="$(pem_body "$1" "$2")" '
        /^-----BEGIN/ { body = ""; inside = 1; next }
        /^-----END/ { if (body == want) found = 1; inside = 0 }
        inside { gsub(/[ \r]/, ""); body = body $0 }
        END { exit !found }' "$bundle"
}

# -- the end of that text

# run_update [--fresh]: or the end with what it said
run_update() {
    # shellcheck disable=SC2086 # a command and its words
    said=$($update ${1:-} 2>&1 </dev/null) || fail "$update failed: $said"
}

read_ca() {
    [ -r "$1" ] || fail "$1 cannot be read"
    count=$(count_of "$1")
    case $count in 1 | 2) ;; *) fail "$1 is not the CA in PEM" ;; esac
    for number in $(numbers); do
        fingerprint=$(fingerprint_of "$number" "$1")
        is_fingerprint "$fingerprint" || fail "$1 is no certificate"
        say "SHA-256 fingerprint $(shown_fingerprint "$fingerprint")"
    done
}

numbers() { if [ "$count" = 1 ]; then echo 1; else echo 1 2; fi; }
place_of() { if [ "$1" = 1 ]; then say "$anchor"; else say "$second"; fi; }
need_root() { [ "$(id -u)" = 0 ] || fail "$1 needs root"; }

# trusted FILE: all that is in it
trusted() {
    for number in $(numbers); do
        in_bundle "$number" "$1" || return 1
    done
}

# in_place FILE: all that is in it, and nothing else of ours
in_place() {
    for number in $(numbers); do
        place=$(place_of "$number")
        [ -f "$place" ] && [ "$(as_pem "$number" "$1")" = "$(cat "$place")" ] || return 1
    done
    [ "$count" = 2 ] || [ ! -e "$second" ]
}

check() {
    if trusted "$1"; then
        say "trusted: it is in $bundle"
    else
        say "not trusted: it is not in $bundle"
        return 1
    fi
}

install() {
    need_root install
    if trusted "$1" && in_place "$1"; then
        say "nothing to do"
        return
    fi
    replaced=
    if [ -e "$anchor" ] || [ -e "$second" ]; then replaced=$again; fi
    for number in $(numbers); do
        place=$(place_of "$number")
        as_pem "$number" "$1" >"$place.new"
        mv -f -- "$place.new" "$place"
    done
    [ "$count" = 2 ] || rm -f -- "$second"
    run_update $replaced
    trusted "$1" || fail "$update did not bring the CA into $bundle"
    say "trusted: $anchor"
}

uninstall() {
    need_root uninstall
    rm -f -- "$anchor.new" "$second.new" # of an installation that was cut
    if [ ! -e "$anchor" ] && [ ! -e "$second" ]; then
        say "nothing to do"
        return
    fi
    rm -f -- "$anchor" "$second"
    run_update $again
    say "removed: $anchor"
}

main() {
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    umask 022
    case ${1:-}:$# in
        check:2 | install:2)
            find_store
            read_ca "$2"
            "$1" "$2"
            ;;
        uninstall:1)
            find_store
            uninstall
            ;;
        *) usage ;;
    esac
}

main "$@"
