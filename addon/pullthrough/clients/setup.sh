#!/bin/sh
# Makes this machine a client of a pullthrough cache, and takes that back.
#
#   curl -fsS http://CACHE:3128/setup.sh | sh -s -- TARGET... [--fingerprint SHA256] [--yes | --dry-run]
#   curl -fsS http://CACHE:3128/setup.sh | sh -s -- TARGET... --uninstall [--yes | --dry-run]
#
#   system       the cache's CA in the trust store of the system
#   docker       the same, and the proxy in the environment of dockerd
#   containerd   the same, and the proxy in the environment of containerd
#   podman       CA and proxy for podman alone; without root for this user alone
#   all          system, and of the others what is installed here
#
# --fingerprint may be given more than once: during a rotation of the CA there are two.
# It shows what it will change and asks before it does. It writes files of its own only, remembers them in
# /var/lib/pullthrough-client, and keeps there what it found in their places: --uninstall leaves nothing behind.
# It restarts nothing; it says what to restart.
set -eu

# What the cache fills in.
cache='@CACHE@'
announced='@FINGERPRINTS@'

say() { printf '%s\n' "$*"; }
fail() { printf 'setup.sh: %s\n' "$*" >&2; exit 1; }
usage() {
    printf 'setup.sh: %s\n' "$1" >&2
    printf 'usage: docker|containerd|podman|system|all... [--fingerprint SHA256] [--uninstall] [--yes|--dry-run]\n' >&2
    exit 2
}

# -- the CA

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

# run_update: `run`, or the end with what it said
run_update() {
    change "run $run"
    [ -n "$doing" ] || return 0
    # shellcheck disable=SC2086 # a command and its words
    $run >"$work/update.log" 2>&1 </dev/null || fail "$run failed: $(cat "$work/update.log")"
}

# -- the download

fetch() {
    if command -v curl >/dev/null; then
        curl -gfsS --noproxy '*' --max-time 30 --max-filesize 65536 "$cache/ca.pem" -o "$1"
    elif command -v wget >/dev/null; then
        http_proxy='' wget -q -T 30 -O - "$cache/ca.pem" | head -c 65536 >"$1"
    else
        fail "curl or wget is needed"
    fi || fail "$cache/ca.pem cannot be fetched"
}

# fetch_ca: $work/ca-1.pem, perhaps $work/ca-2.pem, and $work/ca.pem with all of it. What has a fingerprint that was
# given, or, if none was given, one that the script was made with.
fetch_ca() {
    fetch "$work/fetched"
    count=$(count_of "$work/fetched")
    case $count in 1 | 2) ;; *) fail "$cache/ca.pem is no certificate" ;; esac
    say "CA of $cache, SHA-256 fingerprint"
    number=1 taken=0
    while [ "$number" -le "$count" ]; do
        found=$(fingerprint_of "$number" "$work/fetched")
        is_fingerprint "$found" || fail "$cache/ca.pem is no certificate"
        say "  $(shown_fingerprint "$found")"
        take_certificate
        number=$((number + 1))
    done
    [ "$taken" != 0 ] || fail "this is not the CA of --fingerprint; nothing was changed"
    [ -n "$pinned" ] ||
        say '  Compare it with what "pullthrough ca show" prints on the cache, or give it with --fingerprint.'
}

take_certificate() {
    if [ -n "$pinned" ]; then
        case " $pinned " in *" $found "*) ;; *) return 0 ;; esac
    else
        is_announced || fail "this is not the CA that the script was made for: fetch it again; nothing was changed"
    fi
    taken=$((taken + 1))
    as_pem "$number" "$work/fetched" >"$work/ca-$taken.pem"
    cat "$work/ca-$taken.pem" >>"$work/ca.pem"
}

is_announced() {
    for one in $announced; do
        [ "$found" != "$(printf '%s' "$one" | plain_fingerprint)" ] || return 0
    done
    return 1
}

# -- changes: shown in a first round, made in a second; `doing` tells which it is

change() {
    say "  $1"
    changes=$((changes + 1))
}

# same FILE FILE: both are there with the same text
same() { [ -f "$2" ] && [ ! -L "$2" ] && [ "$(cat "$1" && echo .)" = "$(cat "$2" && echo .)" ]; }

exists() { [ -e "$1" ] || [ -L "$1" ]; }

# Whatever ends a run, kill -9 too: the next one finds what it left, and can go on or take it back. So what is about to
# be made is noted before it is made, and `state`, where that is noted, comes and goes whole, by a rename.

# absent_above PATH: what is missing of it and above it, from below
absent_above() {
    folder=$1
    while [ ! -d "$folder" ]; do
        say "$folder"
        folder=$(dirname "$folder")
    done
}

# make_folder PATH: with all above it. What was not there is remembered.
make_folder() {
    [ ! -d "$1" ] || return 0
    absent_above "$1" >>"$state/folders"
    mkdir -p -- "$1"
}

# make_state: `state`, with all above it
make_state() {
    [ ! -d "$state" ] || return 0
    finish_state
    top=$(absent_above "$state" | sed -n '$p')
    draft=$top.pullthrough-new below=${state#"$top"}
    mkdir -p -- "$draft$below/wanted"
    absent_above "$state" >"$draft$below/folders"
    mv -- "$draft" "$top"
}

# remove_state: with what was made above it and has nothing else in it
remove_state() {
    top=$state
    while is_only_ours "$(dirname "$top")"; do top=$(dirname "$top"); done
    mv -- "$top" "$top.pullthrough-new"
    finish_state
}

is_only_ours() { grep -qsxF -e "$1" "$state/folders" && [ "$(ls -A "$1")" = "${top##*/}" ]; }

# finish_state: without `state`, remove what is left of a run that was making or removing it
finish_state() {
    top=$state
    while [ "$top" != "$(dirname "$top")" ]; do
        [ ! -d "$top.pullthrough-new" ] || remove_draft "$top.pullthrough-new" "${state#"$top"}"
        top=$(dirname "$top")
    done
}

# remove_draft FOLDER BELOW: `state`, which is BELOW in it, and what is empty without it
remove_draft() {
    rm -rf -- "$1$2"
    below=$2
    while [ -n "$below" ]; do
        below=${below%/*}
        rmdir -- "$1$below" 2>/dev/null || true
    done
}

is_ours() { [ -f "$state/files-$1" ] && grep -qxF -e "$2" "$state/files-$1"; }

# put PART FILE PATH: FILE at PATH. What somebody else had there is kept; what is the same already stays theirs.
put() {
    ! same "$2" "$3" || return 0
    if exists "$3"; then change "replace $3"; else change "write $3"; fi
    [ -n "$doing" ] || return 0
    make_folder "$(dirname "$3")"
    is_ours "$1" "$3" || keep "$1" "$3"
    rm -f -- "$3.pullthrough-new"
    cp -- "$2" "$3.pullthrough-new"
    chmod 644 "$3.pullthrough-new"
    mv -f -- "$3.pullthrough-new" "$3"
}

# keep PART PATH: from now on PATH is ours, and what is there now comes back. Interrupted, it can be repeated.
keep() {
    rm -f -- "$state/before$2"
    if exists "$2"; then
        mkdir -p -- "$state/before$(dirname "$2")"
        cp -pP -- "$2" "$state/before$2"
    fi
    say "$2" >>"$state/files-$1"
}

# take_back PART: everything that `put` did for it
take_back() {
    [ -f "$state/files-$1" ] || return 0
    while IFS= read -r path; do
        if exists "$state/before$path"; then change "put back $path"; else change "remove $path"; fi
        [ -n "$doing" ] || continue
        rm -f -- "$path.pullthrough-new"
        if exists "$state/before$path"; then
            cp -pP -- "$state/before$path" "$path.pullthrough-new"
            mv -f -- "$path.pullthrough-new" "$path"
        else
            rm -f -- "$path"
        fi
    done <"$state/files-$1"
}

# forget PART: after `take_back`
forget() { [ -z "$doing" ] || rm -f -- "$state/files-$1"; }

# leave_no_folder: those that we made and that are empty now go, ours with what is in it once nothing is wanted
leave_no_folder() {
    [ -d "$state" ] || { finish_state && return; }
    if [ -f "$state/folders" ]; then
        sort -r "$state/folders" | while read -r folder; do rmdir -- "$folder" 2>/dev/null || true; done
    fi
    [ -n "$(ls "$state/wanted" 2>/dev/null)" ] || remove_state
}

# -- what each target is made of

wanted() { [ -e "$state/wanted/$1" ]; }

# need_store TARGET...: whether one of these has the CA in the system's store
need_store() { case " $* " in *' system '* | *' docker '* | *' containerd '*) ;; *) return 1 ;; esac; }

install_store() {
    find_store
    run=''
    put_certificate store "$work/ca-1.pem" "$anchor"
    if [ -f "$work/ca-2.pem" ]; then
        put_certificate store-2 "$work/ca-2.pem" "$second"
    elif [ -f "$state/files-store-2" ]; then # of a rotation that is over
        run="$update $again"
        take_back store-2
    fi
    [ -n "$run" ] || return 0
    run_update
    [ -n "$doing" ] || return 0
    [ -f "$work/ca-2.pem" ] || forget store-2
    for file in "$work"/ca-[12].pem; do
        in_bundle 1 "$file" || fail "$update did not bring the CA into $bundle"
    done
}

# put_certificate PART FILE PATH: and `run`, if the store has to be updated then
put_certificate() {
    if ! same "$2" "$3"; then
        if exists "$3"; then run="$update $again"; else run=${run:-$update}; fi
        put "$1" "$2" "$3"
    elif ! in_bundle 1 "$2"; then
        run=${run:-$update}
    fi
}

# uninstall_store: unless somebody needs it still
uninstall_store() {
    [ -f "$state/files-store" ] || [ -f "$state/files-store-2" ] || return 0
    for other in system docker containerd; do
        case " $targets " in *" $other "*) continue ;; esac
        ! wanted "$other" || return 0
    done
    find_store
    run="$update $again"
    take_back store
    take_back store-2
    run_update
    forget store
    forget store-2
}

# The daemon's environment decides, not that of whoever runs its command.
install_unit() {
    {
        say '[Service]'
        say "Environment=\"HTTPS_PROXY=$cache\""
        say 'Environment="NO_PROXY=localhost,127.0.0.0/8,::1,.svc,.cluster.local"'
    } >"$work/unit"
    put "$1" "$work/unit" "/etc/systemd/system/$1.service.d/pullthrough.conf"
}

# certs.d would need a folder for each registry. This covers them all, and nothing but podman trusts the CA.
install_podman() {
    {
        say '[engine]'
        say "env = ['HTTPS_PROXY=$cache', 'SSL_CERT_DIR=/etc/ssl/certs:/etc/pki/tls/certs:$containers/pullthrough']"
    } >"$work/podman"
    put podman "$work/ca.pem" "$containers/pullthrough/ca.pem"
    put podman "$work/podman" "$containers/containers.conf.d/pullthrough.conf"
}

# round: all changes, once
round() {
    changes=0
    "${action}_all"
}

install_all() {
    if [ -n "$doing" ]; then
        make_state
        for target in $targets; do : >"$state/wanted/$target"; done
    fi
    # shellcheck disable=SC2086 # one word per target
    ! need_store $targets || install_store
    for target in $targets; do
        case $target in
            docker | containerd) install_unit "$target" ;;
            podman) install_podman ;;
        esac
    done
}

uninstall_all() {
    uninstall_store
    for target in $targets; do
        take_back "$target"
        forget "$target"
        [ -z "$doing" ] || rm -f -- "$state/wanted/$target"
    done
}

# -- what to know before and to do after

installed() { command -v "$1" >/dev/null; }
systemd() { [ -d /etc/systemd/system ] || [ -d /run/systemd/system ]; }

# sets_engine_env FILE: podman takes one file's list, not the sum of all
sets_engine_env() {
    awk '/^[ \t]*\[/ { engine = /\[engine\]/ } engine && /^[ \t]*env[ \t]*=/ { found = 1 } END { exit !found }' "$1"
}

refuse_what_cannot_be() {
    for target in $targets; do
        case $target in
            docker | containerd)
                systemd || fail "no systemd here: use the target system, and set HTTPS_PROXY=$cache where $target starts"
                ;;
            podman) refuse_other_engine_env ;;
        esac
    done
}

refuse_other_engine_env() {
    set -- /etc/containers/containers.conf /etc/containers/containers.conf.d/*.conf
    for file in "$@" "$containers/containers.conf" "$containers"/containers.conf.d/*.conf; do
        if [ "${file##*/}" != pullthrough.conf ] && [ -f "$file" ] && sets_engine_env "$file"; then
            fail "$file has a list env in [engine]: use the target system, and add HTTPS_PROXY=$cache to that list"
        fi
    done
}

warn_of_others() {
    for target in $targets; do
        for file in "/etc/systemd/system/$target.service.d"/*.conf; do
            if [ "${file##*/}" != pullthrough.conf ] && grep -qs '_PROXY=' "$file"; then
                say "Note: $file sets a proxy too. Of the same variable, the last file by name counts."
            fi
        done
    done
    case " $targets " in *' docker '*) ;; *) return 0 ;; esac
    if grep -qs '"proxies"' /etc/docker/daemon.json; then
        say 'Note: /etc/docker/daemon.json has "proxies". dockerd takes them, and not its environment.'
    fi
}

say_what_is_next() {
    for target in $targets; do
        case $target in
            docker | containerd)
                say "Now restart $target: systemctl daemon-reload && systemctl restart $target"
                [ "$target" != docker ] || [ "$action" != install ] ||
                    say "\"docker build\" asks for tokens itself: there, export HTTPS_PROXY=$cache"
                ;;
            podman)
                [ "$action" != install ] ||
                    say "podman hands its proxy on to containers; --http-proxy=false keeps it from that."
                ;;
            system)
                [ "$action" != install ] ||
                    say "Programs that run already must be restarted. To go through the cache: export HTTPS_PROXY=$cache"
                ;;
        esac
    done
}

# -- the road

read_arguments() {
    targets='' pinned='' action=install yes='' dry=''
    while [ $# -gt 0 ]; do
        case $1 in
            system | docker | containerd | podman | all) targets="$targets $1" ;;
            --fingerprint)
                [ $# -gt 1 ] || usage "--fingerprint needs a value"
                pin "$2"
                shift
                ;;
            --fingerprint=*) pin "${1#*=}" ;;
            --uninstall) action=uninstall ;;
            --yes) yes=1 ;;
            --dry-run) dry=1 ;;
            *) usage "what is \"$1\"?" ;;
        esac
        shift
    done
    [ -n "$targets" ] || usage "for which client?"
    case $targets in *' all'*) targets=$(everything) ;; esac
}

pin() {
    found=$(printf '%s' "$1" | plain_fingerprint)
    is_fingerprint "$found" || usage "--fingerprint needs the 64 hexadecimal digits of a SHA-256"
    pinned=${pinned:+$pinned }$found
}

everything() {
    printf system
    if [ "$action" = uninstall ]; then
        printf ' docker containerd podman'
        return
    fi
    ! systemd || ! installed dockerd || printf ' docker'
    ! systemd || ! installed containerd || printf ' containerd'
    ! installed podman || printf ' podman'
}

choose_places() {
    if [ "$(id -u)" = 0 ]; then
        state=/var/lib/pullthrough-client
        containers=/etc/containers
        return
    fi
    containers=${XDG_CONFIG_HOME:-${HOME:?}/.config}/containers
    state=${XDG_STATE_HOME:-${HOME:?}/.local/state}/pullthrough-client
    case $containers$state in
        *[\'\"\\:[:cntrl:]]*) fail "the home folder's name has a quote, a colon, a backslash or a control character" ;;
    esac
    case " $targets" in
        *' system'* | *' docker'* | *' containerd'*)
            [ -n "$dry" ] || fail "$targets: this needs root (| sudo sh -s -- ...); podman alone does without"
            state=/var/lib/pullthrough-client containers=/etc/containers
            ;;
    esac
}

confirm() {
    [ -z "$yes" ] || return 0
    # shellcheck disable=SC2188 # is there anybody to ask?
    (: </dev/tty) 2>/dev/null || fail "there is no terminal to ask on: add --yes to make these changes"
    printf 'Make these changes? [y/N] ' >/dev/tty
    read -r reply </dev/tty || reply=
    case $reply in [Yy]*) ;; *) fail "nothing was changed" ;; esac
}

main() {
    [ "$(uname -s)" = Linux ] || fail "this is for Linux; the folder certs/ of pullthrough has scripts for other systems"
    PATH=$PATH:/usr/local/sbin:/usr/sbin:/sbin
    umask 022
    read_arguments "$@"
    choose_places
    work=$(mktemp -d)
    trap 'rm -rf -- "$work"' EXIT
    trap 'exit 130' INT
    trap 'exit 143' TERM
    if [ "$action" = install ]; then
        case $cache in http://*) ;; *) fail "fetch this script from a cache: curl -fsS http://CACHE:3128/setup.sh" ;; esac
        refuse_what_cannot_be
        fetch_ca
        warn_of_others
    fi
    doing=
    say "Changes:"
    round
    [ "$changes" != 0 ] || say "  none"
    [ -z "$dry" ] || return 0
    [ "$changes" = 0 ] || confirm
    shown=$changes doing=1
    round >/dev/null # without changes too: who needs the store is remembered
    [ "$action" = install ] || leave_no_folder
    [ "$shown" = 0 ] || say_what_is_next
}

main "$@"
