# What the conductor orders, and what it makes of the answers.

declare -a given ranks members
problem='' failed=0 agent_process='' interrupted=''

conduct() {
    local number
    started=$(date -u +%Y-%m-%dT%H:%M:%SZ)
    mkdir -p "$report/log" && mkdir "$meeting" || refuse "$meeting cannot be made; name another --report"
    trap 'interrupted=130; exit 130' INT
    trap 'interrupted=143; exit 143' TERM HUP
    trap conductor_leave EXIT
    for ((number = 0; number < tasks; number++)); do
        given[number]=0
        ranks+=("$number")
    done
    members=("${ranks[@]:1}")
    (umask 077 && head -c 32 /dev/urandom | base64 >"$meeting/token")
    : >"$meeting/checks"
    mkdir "$meeting/results" "$meeting/trees" "$meeting/nodes" "$meeting/gone" "$meeting/measures"
    # Last: agents begin when it is there.
    mkdir "$meeting/orders"
    agent &
    agent_process=$!
    checks
    exit "$failed"
}

conductor_leave() {
    local status=$? tries
    trap '' INT TERM HUP
    if [ -n "$interrupted" ]; then
        note "the run as a whole" failed 0 "stopped by a signal"
    fi
    write_report
    : >"$meeting/end"
    [ -z "$interrupted" ] || kill "$agent_process" 2>/dev/null
    # Within this time tasks stop their nodes; what a host leaves behind after it is named.
    for ((tries = 0; tries < 300; tries++)); do
        [ "$(find "$meeting/gone" -type f | wc -l)" -lt "$tasks" ] || break
        sleep 0.1
    done
    for rank in "${ranks[@]}"; do
        [ -e "$meeting/gone/$rank" ] || echo "warning: task $rank has not said that it cleaned up" >&2
    done
    wait "$agent_process"
    [ -z "$watch" ] || kill "$watch" 2>/dev/null
    rm -rf "$meeting"
    exit "$status"
}

# Gives an order to one task.
order() {
    local rank=$1
    shift
    echo "$*" >"$meeting/orders/$rank.part"
    mv "$meeting/orders/$rank.part" "$meeting/orders/$rank.${given[rank]}"
    echo "$rank.${given[rank]}: $*" >>"$report/log/orders"
    given[rank]=$((given[rank] + 1))
}

# Waits until a task has carried out its last order. Its status; what went wrong is in $problem. Its output is in $answer.
await() {
    local rank=$1 number=$((given[$1] - 1)) result status until_s=$((SECONDS + step_limit + 30))
    result=$meeting/results/$rank.$number answer=$report/log/$rank.$number.out
    until [ -e "$result" ]; do
        if [ "$SECONDS" -ge "$until_s" ] || [ "$SECONDS" -ge "$time_limit" ]; then
            problem="task $rank has not answered in time"
            return 124
        fi
        if [ -e "$meeting/gone/$rank" ]; then
            problem="task $rank has ended"
            return 1
        fi
        echo "$SECONDS" >"$meeting/beat.part" && mv "$meeting/beat.part" "$meeting/beat"
        ls "$meeting/results" >/dev/null
        sleep 0.05
    done
    status=$(cat "$result")
    [ "$status" = 0 ] || problem="task $rank: status $status: $(tail -n 3 "$report/log/$rank.$number.err" | tr '\n' ' ')"
    return "$status"
}

# One task, or several at once: `ask 1 2 -- get a`.
ask() {
    local asked=() rank outcome=0
    while [ "$1" != -- ]; do
        asked+=("$1")
        shift
    done
    shift
    for rank in "${asked[@]}"; do
        order "$rank" "$@"
    done
    for rank in "${asked[@]}"; do
        await "$rank" || outcome=1
    done
    return "$outcome"
}

# A row of the report: name, result, seconds, detail.
note() {
    printf '%s\t%s\t%s\t%s\n' "$1" "$2" "$3" "$(printf %s "$4" | tr '\t\n' '  ')" >>"$meeting/checks"
    [ "$2" != failed ] || failed=1
    echo "validate: $1: $2${4:+ ($4)}" >&2
}

# Runs a check, which is a function: it fails with a reason in $problem, or skips itself with 77 and one.
check() {
    local name=$1 begin=$SECONDS status
    shift
    problem=''
    "$@"
    status=$?
    case $status in
        0) note "$name" passed $((SECONDS - begin)) "" ;;
        77) note "$name" skipped 0 "$problem" ;;
        *) note "$name" failed $((SECONDS - begin)) "${problem:-status $status}" ;;
    esac
    return "$status"
}

checks() {
    check "every host describes itself" describe || return
    if ! check "every node starts and knows all others" form; then
        note "everything else" skipped 0 "there is no cluster to check"
        return
    fi
    check "trees put on each node come whole to the next" exchange
    check "a broadcast comes whole to every node" broadcast
    check "the others get everything when a node is killed on the way" lose
    check "the head notices that the node is gone" notice
    check "the node comes back, with what it had stored" return_of_node
    check "point to point" point_to_point
    check "broadcast to all nodes" measure_broadcast
    check "every node tells its counters" ask "${ranks[@]}" -- status
}

describe() {
    local rank
    ask "${ranks[@]}" -- describe || return
    for rank in "${ranks[@]}"; do
        cat "$report/log/$rank.0.out"
    done >"$meeting/hosts"
}

form() {
    ask 0 -- serve || return
    cp "$answer" "$meeting/head"
    ask "${members[@]}" -- serve || return
    all_alive
}

all_alive() {
    until_counted "${ranks[@]}" alive "$tasks"
}

# Waits until nodes know so many in a state: `until_counted RANK… STATE COUNT`.
until_counted() {
    local asked=("${@:1:$#-2}") state=${*: -2:1} count=${*: -1} until_s=$((SECONDS + 60)) rank
    for rank in "${asked[@]}"; do
        until ask "$rank" -- count "$state" && [ "$(cat "$answer")" = "$count" ]; do
            if [ "$SECONDS" -ge "$until_s" ]; then
                problem="node $rank knows $(cat "$answer") nodes that are $state in place of $count; $problem"
                return 1
            fi
            sleep 0.5
        done
    done
}

exchange() {
    local rank
    each_own tree && each_own put || return
    for rank in "${ranks[@]}"; do
        order "$rank" get "t$(((rank + 1) % tasks))"
    done
    await_all
}

# Each task does the same with a tree of its own.
each_own() {
    local rank
    for rank in "${ranks[@]}"; do
        order "$rank" "$1" "t$rank"
    done
    await_all
}

await_all() {
    local rank outcome=0
    for rank in "${ranks[@]}"; do
        await "$rank" || outcome=1
    done
    return "$outcome"
}

broadcast() {
    ask 0 -- tree all && ask 0 -- put all --volatile && ask "${ranks[@]}" -- get all
}

lose() {
    local rank outcome=0
    ask 0 -- tree lose && ask 0 -- put lose || return
    order "$last" lose lose
    for rank in "${ranks[@]:0:last}"; do
        order "$rank" get lose
    done
    await_all
}

notice() {
    until_counted 0 dead 1
}

return_of_node() {
    ask "$last" -- serve && all_alive && ask "$last" -- get lose && ask 0 "$last" -- get "t$last"
}

point_to_point() {
    local rank tool outcome=0
    tool=$(peer_tool)
    for rank in "${members[@]:0:pairs}"; do
        if ask 0 -- bench p2p --from n0 --to "n$rank"; then
            cp "$answer" "$meeting/measures/p2p.$rank.json"
        else
            outcome=1
        fi
        [ -n "$tool" ] || continue
        if ask "$rank" -- peer_serve "$tool" && ask 0 -- peer_call "$tool" "$(fabric_address_of "$rank")"; then
            echo "$tool $(cat "$answer")" >"$meeting/measures/peer.$rank"
        else
            note "$tool from n0 to n$rank" skipped 0 "$problem"
        fi
        ask "$rank" -- peer_stop
    done
    if [ "$tool" != ib_write_bw ]; then
        note "the peer ib_write_bw" skipped 0 "$(why_not_ib_write_bw); ${tool:-iperf3 is not on both hosts either, so nothing} stands beside the figures"
    fi
    return "$outcome"
}

fabric_address_of() {
    sed -n 's/.*"address": "\([^"]*\)".*/\1/p' "$meeting/nodes/$1.json" | head -n 1
}

# Whether the first two hosts say something of themselves.
both_have() {
    grep -q "$1" "$meeting/nodes/0.json" && grep -q "$1" "$meeting/nodes/1.json"
}

# What is measured beside Shoal, if anything.
peer_tool() {
    if both_have '"ib_write_bw": "' && both_have '"rdma_device": "..*"'; then
        echo ib_write_bw
    elif both_have '"iperf3": "'; then
        echo iperf3
    fi
}

why_not_ib_write_bw() {
    if both_have '"ib_write_bw": "'; then echo "there is no RDMA device on both hosts"; else echo "it is not installed on both hosts"; fi
}

measure_broadcast() {
    ask 0 -- bench broadcast || return
    cp "$answer" "$meeting/measures/broadcast.json"
}
