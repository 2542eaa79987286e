# Runs the privileged tier: sh tier.sh DIRECTORY
#
# DIRECTORY has three lists, a line each: `tests` (name and path), `arguments` (of every test), `memtrace` (its path).
# Lines that begin with `memtrace-vm: ` tell what follows.
orders=$1
patience=600

say() {
    # The program before may have ended within a line.
    printf '\nmemtrace-vm: %s\n' "$*"
}

uptime() {
    read -r seconds _ </proc/uptime
    echo "$seconds"
}

scratch=$(mktemp -d)
if [ -e "$orders/oracles" ]; then
    read -r MEMTRACE_ORACLES <"$orders/oracles"
    export MEMTRACE_ORACLES
fi
export MEMTRACE_SKIPS="$scratch/skips" MEMTRACE_VERIFIED="$scratch/verified"
: >"$MEMTRACE_SKIPS"

say begin "$(uptime)"
read -r memtrace <"$orders/memtrace"
say doctor
"$memtrace" doctor --json </dev/null

set --
while read -r argument; do
    set -- "$@" "$argument"
done <"$orders/arguments"
while read -r name path <&3; do
    say target "$name"
    # One test at a time: two processors of a guest are one of its host, and at classic tracepoints the kernel skips programs
    # while it has preempted a bpf(2) call, such as another test makes.
    timeout -k 10 "$patience" "$path" --color never --test-threads 1 "$@" </dev/null 2>&1 3<&-
    say exit $?
done 3<"$orders/tests"

say skips
cat "$MEMTRACE_SKIPS"
if [ -e "$MEMTRACE_VERIFIED" ]; then
    say verified
    cat "$MEMTRACE_VERIFIED"
fi
say end "$(uptime)"
rm -rf "$scratch"
