# One report of the run, for readers and for programs.

# A number by its name in a file of JSON; the first that is there.
number() {
    grep -o "\"$1\": *[0-9.]*" "$2" 2>/dev/null | head -n 1 | sed 's/.*: *//'
}

write_report() {
    local result=passed
    grep -q "^the run as a whole" "$meeting/checks" && result=failed
    cut -f 2 "$meeting/checks" | grep -q failed && result=failed
    # A run that found nothing out did not pass.
    cut -f 2 "$meeting/checks" | grep -q passed || result=failed
    report_for_programs "$result" >"$report/report.json"
    report_for_readers "$result" >"$report/report.md"
    echo "validate: $result; the report is $report/report.md" >&2
}

# Items that a function writes, with commas between them.
listed() {
    local first=1 item
    for item in "${@:2}"; do
        [ -n "$first" ] || printf ', '
        "$1" "$item" && first=''
    done
}

report_for_programs() {
    echo "{\"format\": \"shoal-validation 1\", \"run\": $(quoted "$run"), \"started\": \"$started\", \"seconds\": $SECONDS,"
    echo "\"result\": \"$1\", \"tasks\": $tasks,"
    echo "\"settings\": {\"memory\": $(quoted "$memory"), \"tree_mib\": $tree_mib, \"size\": $(quoted "$size"), \"rounds\": $rounds},"
    echo "\"nodes\": [$(listed node_for_programs "${ranks[@]}")],"
    echo "\"checks\": [$(checks_for_programs)],"
    echo "\"point_to_point\": [$(listed pair_for_programs "${members[@]:0:pairs}")],"
    echo "\"broadcast\": $(cat "$meeting/measures/broadcast.json" 2>/dev/null || echo null)}"
}

node_for_programs() {
    echo "{\"description\": $(cat "$meeting/nodes/$1.json" 2>/dev/null || echo null),"
    echo "\"status\": $(cat "$meeting/nodes/$1.status.json" 2>/dev/null || echo null)}"
}

checks_for_programs() {
    local name result seconds detail comma=''
    while IFS=$'\t' read -r name result seconds detail; do
        echo "$comma{\"name\": $(quoted "$name"), \"result\": \"$result\", \"seconds\": $seconds, \"detail\": $(quoted "$detail")}"
        comma=,
    done <"$meeting/checks"
}

pair_for_programs() {
    local tool='' rate='' peer=null
    read -r tool rate 2>/dev/null <"$meeting/measures/peer.$1"
    [ -z "$rate" ] || peer="{\"tool\": \"$tool\", \"gigabit_per_s\": $rate}"
    echo "{\"from\": \"n0\", \"to\": \"n$1\", \"peer\": $peer,"
    echo "\"shoal\": $(cat "$meeting/measures/p2p.$1.json" 2>/dev/null || echo null)}"
}

report_for_readers() {
    local name result seconds detail rank
    echo "# Validation of Shoal on $tasks hosts: $1"
    echo
    echo "Run $run, begun $started, $SECONDS s. \`report.json\` has everything, \`log\` what nodes and steps wrote."
    echo
    echo "| check | result | s | remarks |"
    echo "|---|---|--:|---|"
    while IFS=$'\t' read -r name result seconds detail; do
        echo "| $name | $result | $seconds | ${detail//|/\\|} |"
    done <"$meeting/checks"
    echo
    echo "## Hosts"
    echo
    echo "| host | address | kernel | processors | RDMA | shoal |"
    echo "|---|---|---|--:|---|---|"
    cat "$meeting/hosts" 2>/dev/null
    echo
    echo "## Measurements"
    echo
    echo "Rounds of $size; times are of single receivers, in ms. GB are 10⁹ bytes, and rates of all receivers together."
    echo
    echo "| what | rounds | p50 | p90 | p99 | max | GB/s, median | beside it | GB/s | ratio |"
    echo "|---|--:|--:|--:|--:|--:|--:|---|--:|--:|"
    for rank in "${members[@]:0:pairs}"; do
        measure "n0 to n$rank" "$meeting/measures/p2p.$rank.json" "$meeting/measures/peer.$rank"
    done
    measure "n0 to all" "$meeting/measures/broadcast.json" ''
    echo
    echo "Which way pieces came to each node since it started, in MB; what is not RDMA, UCX or shared memory came over TCP:"
    echo
    echo "| node | all | RDMA | UCX | shared memory |"
    echo "|---|--:|--:|--:|--:|"
    for rank in "${ranks[@]}"; do
        [ ! -e "$meeting/nodes/$rank.status.json" ] || echo "| n$rank | $(came "$rank" '') | $(came "$rank" _rdma) | $(came "$rank" _ucx) | $(came "$rank" _shm) |"
    done
}

# Megabytes that a counter of a node tells; a version of Shoal that does not count this way tells none.
came() {
    number "bytes_received$2" "$meeting/nodes/$1.status.json" | awk '{ bytes = $1 } END { printf "%.0f", bytes / 1e6 }'
}

# A row of the table of measurements: its name, the JSON of `shoal bench`, and the file of the peer, if there is one.
measure() {
    local tool='' rate='' rates name times=''
    [ -e "$2" ] || return 0
    [ -z "$3" ] || read -r tool rate 2>/dev/null <"$3"
    for name in p50 p90 p99 max; do
        times+=" | $(number "$name" "$2" | awk '{ printf "%.1f", $1 / 1000 }')"
    done
    rates=$(awk -v ours="$(number median "$2")" -v peer="${rate:-0}" 'BEGIN {
        printf "%.2f", ours
        if (peer > 0) printf "\t%.2f\t%.2f", peer / 8, ours * 8 / peer; else printf "\t–\t–" }')
    IFS=$'\t' read -r ours theirs ratio <<<"$rates"
    echo "| $1 | $(number rounds "$2")$times | $ours | ${tool:-–} | $theirs | $ratio |"
}
