#!/bin/sh
# Installs the realm agent on a Linux machine, or removes it:
#
#   ssh bm-01 'sh -s' < install.sh
#   ssh bm-01 'sh -s -- --ticket TICKET' < install.sh
#   curl -fsSL URL/install.sh | sh
#
# Nothing is installed whose SHA-256 is not known. Run again it changes nothing, and says so.
# `--help` lists the options; docs/install.md says what it does.

set -eu
umask 022
LC_ALL=C
export LC_ALL

RELEASES=https://github.com/realm-run/realm/releases
BIN=/usr/local/bin/realm
STATE=/var/lib/realm
FOLDER=$STATE/realm
UNIT=/etc/systemd/system/realm.service
ACCOUNT=realm
# An agent that cannot run has ended by then.
SETTLE_S=1

usage() {
	cat <<'EOF'
Usage: install.sh [OPTIONS]

  --version VERSION    a released version, e.g. 0.1.0 (default: the newest)
  --binary FILE|URL    this binary instead of a released one
  --sha256 HEX         its SHA-256; default: SHA256SUMS beside it
  --ticket TICKET      join with what `realm invite` printed
  --ticket-file FILE   the same, from a file
  --no-start           install, and leave the service as it is
  --uninstall          stop the agent, remove the service and the binary; keep keys and state
  --purge              with --uninstall: remove keys, state and the user as well
  --help               print this

From the environment: REALM_VERSION, REALM_BINARY, REALM_SHA256, REALM_TICKET.
EOF
}

say() { printf '%s\n' "$*"; }

# fail CODE MESSAGE HINT
fail() {
	printf 'error[%s]: %s\nhint: %s\n' "$1" "$2" "$3" >&2
	exit 1
}

have() { command -v "$1" >/dev/null 2>&1; }

# Something was not as it should be, and is from here on.
changed() {
	changes=$((changes + 1))
	say "$*"
}

unit() {
	cat <<EOF
# Written by install.sh; changes belong into \`systemctl edit realm\`.
[Unit]
Description=realm agent
Documentation=https://github.com/realm-run/realm/blob/main/docs/operations.md
Wants=network-online.target
After=network-online.target
# Tried for ever: a node that gave up needs somebody to go there.
StartLimitIntervalSec=0

[Service]
User=$ACCOUNT
Group=$ACCOUNT
ExecStart=$BIN --realm $FOLDER agent --wait-for-owner
Environment=NO_COLOR=1
Restart=always
RestartSec=1
# Longer than the 30 s for requests in flight.
TimeoutStopSec=45
# 10,000 connections at the edge, and room for outbound ones.
LimitNOFILE=65536
StateDirectory=realm
StateDirectoryMode=0700
UMask=0077

# Ports below 1024, and no other right of root.
AmbientCapabilities=CAP_NET_BIND_SERVICE
CapabilityBoundingSet=CAP_NET_BIND_SERVICE
NoNewPrivileges=yes
RestrictSUIDSGID=yes
RestrictNamespaces=yes
RestrictRealtime=yes
LockPersonality=yes
KeyringMode=private
RemoveIPC=yes

ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
PrivateDevices=yes
DevicePolicy=closed
ProtectClock=yes
ProtectHostname=yes
ProtectControlGroups=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
# Not ProcSubset=pid: the figures of the machine are in /proc/stat and /proc/meminfo.
ProtectProc=invisible

# AF_NETLINK: which addresses the machine has, and when they change.
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX AF_NETLINK
SystemCallArchitectures=native
# @system-service has what Wasmtime needs: mmap, mprotect, madvise, memfd_create, sigaltstack,
# and setpriority for the compiler and the epoch thread.
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
# Not MemoryDenyWriteExecute=: compiled components are mapped as code, and none would start.
# Not PrivateUsers=: it takes the port capability away.

[Install]
WantedBy=multi-user.target
EOF
}

sha256_of() {
	if have sha256sum; then
		sha256sum "$1" | cut -d ' ' -f 1
	elif have shasum; then
		shasum -a 256 "$1" | cut -d ' ' -f 1
	elif have openssl; then
		openssl dgst -sha256 -r "$1" | cut -d ' ' -f 1
	else
		fail no-tool "nothing here computes a SHA-256" "install coreutils or openssl"
	fi
}

# download URL FILE: 0 only if all of it came.
download() {
	case $1 in
	https://*) protocols='=https' ;;
	*) protocols='=http,https' ;;
	esac
	if have curl; then
		curl -fsSL --proto "$protocols" --retry 3 --connect-timeout 20 --max-time 900 \
			--max-filesize 536870912 -o "$2" "$1"
	elif have wget; then
		wget -q -T 60 -O "$2" "$1"
	else
		fail no-tool "neither curl nor wget is here" "install curl, or copy the binary here and name it with --binary"
	fi
}

# The line of SHA256SUMS for a name; nothing if there is none, or if there are two.
sum_for() {
	awk -v name="$2" '
		{ file = $2; sub(/^\*/, "", file) }
		file == name && length($1) == 64 { sum = $1; found++ }
		END { if (found == 1) print tolower(sum) }
	' "$1"
}

systemd_runs() { [ -d /run/systemd/system ] && have systemctl; }

find_checksum() {
	[ -z "$sha256" ] || return 0
	name=${binary##*/}
	case $binary in
	https://*)
		if download "${binary%/*}/SHA256SUMS" "$work/SHA256SUMS"; then
			sha256=$(sum_for "$work/SHA256SUMS" "$name")
		fi
		;;
	http://*)
		fail no-checksum "whoever is on the way can change what \`$binary\` and a SHA256SUMS beside it say" \
			"name the checksum: --sha256 HEX"
		;;
	*)
		beside=$(dirname "$binary")/SHA256SUMS
		if [ -f "$beside" ]; then
			sha256=$(sum_for "$beside" "$name")
		fi
		;;
	esac
	[ -n "$sha256" ] || fail no-checksum "no SHA-256 of \`$binary\` is known" \
		"name it with --sha256 HEX, or put a SHA256SUMS beside the binary"
}

install_binary() {
	find_checksum
	if [ -f "$BIN" ] && [ "$(sha256_of "$BIN")" = "$sha256" ]; then
		return 0
	fi
	case $binary in
	http://* | https://*)
		say "downloading $binary" >&2
		download "$binary" "$work/realm" || fail download-failed "\`$binary\` could not be downloaded" \
			"check the address and the version, or copy the binary here and name it with --binary"
		;;
	*)
		[ -f "$binary" ] || fail no-binary "\`$binary\` is no file" "name a file or a URL: --binary"
		cp "$binary" "$work/realm"
		;;
	esac
	got=$(sha256_of "$work/realm")
	[ "$got" = "$sha256" ] || fail checksum-mismatch "\`$binary\` has SHA-256 $got, expected $sha256" \
		"nothing was installed; get the binary again, and the checksum from whoever made it"
	mkdir -p "$(dirname "$BIN")"
	# Beside its place, so that the rename is atomic: a running agent keeps the file that it has.
	fresh=$BIN.new.$$
	cp "$work/realm" "$fresh"
	chmod 755 "$fresh"
	version=$("$fresh" --version 2>/dev/null) || {
		rm -f "$fresh"
		fail does-not-run "the binary does not run on this machine ($(uname -sm))" "install the one for this machine"
	}
	sync "$fresh" 2>/dev/null || sync
	mv -f "$fresh" "$BIN"
	binary_changed=yes
	changed "installed $version as $BIN"
}

install_user() {
	if ! id "$ACCOUNT" >/dev/null 2>&1; then
		nologin=/usr/sbin/nologin
		[ -x "$nologin" ] || nologin=/sbin/nologin
		if have useradd; then
			useradd --system --user-group --home-dir "$STATE" --no-create-home --shell "$nologin" "$ACCOUNT"
		else
			addgroup -S "$ACCOUNT"
			adduser -S -D -H -h "$STATE" -s "$nologin" -G "$ACCOUNT" "$ACCOUNT"
		fi
		changed "made the user \`$ACCOUNT\`"
	fi
	if [ -L "$STATE" ]; then
		fail state-is-a-link "\`$STATE\` is a link" "mount a disk there instead, or remove the link"
	fi
	if [ "$(stat -c '%U:%G %a' "$STATE" 2>/dev/null)" != "$ACCOUNT:$ACCOUNT 700" ]; then
		mkdir -p "$STATE"
		chown "$ACCOUNT:$ACCOUNT" "$STATE"
		chmod 700 "$STATE"
		changed "made $STATE, which is the agent's alone"
	fi
}

install_unit() {
	unit >"$work/unit"
	if ! cmp -s "$work/unit" "$UNIT"; then
		mkdir -p "$(dirname "$UNIT")"
		cp "$work/unit" "$UNIT.new.$$"
		chmod 644 "$UNIT.new.$$"
		mv -f "$UNIT.new.$$" "$UNIT"
		unit_changed=yes
		changed "installed $UNIT"
	fi
}

start_agent() {
	if [ "$start" = no ]; then
		return 0
	fi
	if ! systemd_runs; then
		say "systemd does not run here; start the agent by yourself, as the user \`$ACCOUNT\`:"
		say "  $BIN --realm $FOLDER agent --wait-for-owner"
		return 0
	fi
	[ "$unit_changed" = no ] || systemctl daemon-reload
	if ! systemctl is-enabled --quiet realm.service; then
		systemctl enable --quiet realm.service
		changed "the agent starts with the machine"
	fi
	if ! systemctl is-active --quiet realm.service; then
		systemctl start realm.service
		changed "started the agent"
	elif [ "$unit_changed$binary_changed" != nono ]; then
		systemctl restart realm.service
		changed "restarted the agent"
	else
		return 0
	fi
	# Not its socket: an agent that waits to be approved has none.
	sleep "$SETTLE_S"
	systemctl is-active --quiet realm.service || fail agent-does-not-start "the agent ended after its start" \
		"look at its log: journalctl -u realm"
}

# Takes the ticket from its standard input: the list of processes is everybody's to read, and a
# ticket has a secret.
join_as_account() {
	if have runuser; then
		runuser -u "$ACCOUNT" -- "$BIN" --realm "$FOLDER" join -
	else
		su -s /bin/sh -c "exec $BIN --realm $FOLDER join -" "$ACCOUNT"
	fi
}

# Before the agent starts: without a realm folder it makes one, and waits for any owner.
join_realm() {
	[ -n "$ticket" ] || return 0
	if [ -e "$FOLDER" ]; then
		say "kept $FOLDER: this machine joined a realm, or asks to; the ticket is not used"
		return 0
	fi
	printf '%s\n' "$ticket" | join_as_account || fail join-failed \
		"the ticket was not taken, and no agent was started" "make a new one with \`realm invite\`, then run this again"
	changed "this machine asks to join as soon as its agent runs"
}

uninstall() {
	if [ -f "$UNIT" ]; then
		if systemd_runs; then
			systemctl disable --quiet --now realm.service || fail stop-failed "the agent could not be stopped" \
				"look at \`systemctl status realm\`; nothing was removed"
		fi
		rm -f "$UNIT"
		if systemd_runs; then
			systemctl daemon-reload
		fi
		changed "removed $UNIT"
	fi
	if [ -f "$BIN" ]; then
		rm -f "$BIN"
		changed "removed $BIN"
	fi
	if [ "$purge" = yes ]; then
		if [ -d "$STATE" ] && [ ! -L "$STATE" ]; then
			rm -rf "$STATE"
			changed "removed $STATE, with this node's key and everything the realm kept here"
		fi
		if id "$ACCOUNT" >/dev/null 2>&1; then
			if have userdel; then userdel "$ACCOUNT"; else deluser "$ACCOUNT"; fi
			changed "removed the user \`$ACCOUNT\`"
		fi
	elif [ -d "$STATE" ]; then
		say "kept $STATE: this node's key and state (--purge removes them)"
	fi
	[ "$changes" -gt 0 ] || say "nothing to remove"
}

# value OPTION COUNT: an option without its value is an error, not the next option's name.
value() {
	[ "$2" -ge 2 ] || fail usage "\`$1\` needs a value" "install.sh --help"
}

main() {
	version=${REALM_VERSION:-latest} binary=${REALM_BINARY:-} sha256=${REALM_SHA256:-} ticket=${REALM_TICKET:-}
	mode=install start=yes purge=no
	changes=0 binary_changed=no unit_changed=no
	while [ $# -gt 0 ]; do
		case $1 in
		--version) value "$1" $#; version=$2; shift ;;
		--binary) value "$1" $#; binary=$2; shift ;;
		--sha256) value "$1" $#; sha256=$2; shift ;;
		--ticket) value "$1" $#; ticket=$2; shift ;;
		--ticket-file)
			value "$1" $#
			ticket=$(cat "$2") || fail no-ticket "\`$2\` cannot be read" "name a file that \`realm invite\` wrote"
			shift
			;;
		--no-start) start=no ;;
		--uninstall) mode=uninstall ;;
		--purge) purge=yes ;;
		--help | -h) usage; return 0 ;;
		*) fail usage "\`$1\` is no option" "install.sh --help" ;;
		esac
		shift
	done
	if [ "$purge" = yes ] && [ "$mode" = install ]; then
		fail usage "--purge goes with --uninstall" "install.sh --uninstall --purge"
	fi
	[ "$(uname -s)" = Linux ] || fail not-linux "an agent is installed on Linux only" "elsewhere run \`realm agent\` by hand"
	[ "$(id -u)" -eq 0 ] || fail not-root "this makes a user and a service" "run it as root: sudo sh install.sh"
	if [ "$mode" = uninstall ]; then
		uninstall
		return 0
	fi
	case $ticket in
	'' | realm-ticket:*) ;;
	*) fail bad-ticket "a ticket begins with \`realm-ticket:\`" "copy the whole line that \`realm invite\` prints" ;;
	esac
	sha256=$(printf '%s' "$sha256" | tr '[:upper:]' '[:lower:]')
	sha256=${sha256#sha256:}
	case $sha256 in
	*[!0-9a-f]*) fail bad-checksum "\`$sha256\` is no SHA-256" "it has 64 hex digits" ;;
	esac
	if [ -n "$sha256" ] && [ ${#sha256} -ne 64 ]; then
		fail bad-checksum "\`$sha256\` is no SHA-256" "it has 64 hex digits"
	fi
	if [ -z "$binary" ]; then
		case $(uname -m) in
		x86_64 | amd64) machine=x86_64 ;;
		aarch64 | arm64) machine=aarch64 ;;
		*) fail no-binary "there is no released binary for $(uname -m)" "build one, and name it with --binary" ;;
		esac
		case $version in
		latest) binary=$RELEASES/latest/download/realm-$machine-linux ;;
		*) binary=$RELEASES/download/v${version#v}/realm-$machine-linux ;;
		esac
	fi
	work=$(mktemp -d)
	# Also what a step left beside its place.
	trap 'rm -rf "$work" "$BIN.new.$$" "$UNIT.new.$$"' EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM
	install_binary
	install_user
	install_unit
	join_realm
	start_agent
	if [ "$changes" -eq 0 ]; then
		say "nothing changed: realm is installed as asked"
	elif [ -n "$ticket" ]; then
		say "next, where the owner's key is: \`realm nodes ls\`, then \`realm nodes approve\` with the words of this machine"
	else
		say "next, where the owner's key is: \`realm peer add $(uname -n)\`, then \`realm nodes approve $(uname -n)\`"
	fi
}

# The last line: of a script that was cut off on its way, nothing has run.
# Nothing here asks a question, and standard input may be this script itself.
main "$@" </dev/null
