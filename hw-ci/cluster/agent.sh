# What every task does: waits for orders in $meeting/orders, carries each out by the function step_NAME, and leaves its
# status in $meeting/results. Its output goes to the folder log of the report.

local_folder='' node='' child='' helper=''

# Runs a program for so many seconds at most; a signal to this shell ends it at once.
limited() {
    local limit_s=$1 status
    shift
    timeout --kill-after=10 "$limit_s" "$@" &
    child=$!
    wait "$child"
    status=$?
    child=''
    return "$status"
}

agent() {
    local count=0 order words status silent=0 beat='' heard
    trap 'exit 130' INT
    trap 'exit 143' TERM HUP
    trap agent_leave EXIT
    # The conductor makes this folder; it may come later.
    until [ -d "$meeting/orders" ]; do
        [ "$SECONDS" -lt 120 ] || { echo "error: task $rank: no conductor came to $meeting in 120 s" >&2; exit 1; }
        ls "$report" >/dev/null
        sleep 0.2
    done
    umask 077
    local_folder=$(mktemp -d "$scratch/shoal-validation.XXXXXX") || exit 1
    # File systems of clusters may remember for seconds that a file is not there; listing its folder corrects that.
    while :; do
        order=$meeting/orders/$rank.$count
        if [ -e "$order" ]; then
            read -ra words <"$order"
            "step_${words[0]}" "${words[@]:1}" >"$report/log/$rank.$count.out" 2>"$report/log/$rank.$count.err"
            status=$?
            echo "$status" >"$meeting/results/$rank.$count.part"
            mv "$meeting/results/$rank.$count.part" "$meeting/results/$rank.$count"
            count=$((count + 1))
            continue
        fi
        [ -e "$meeting/end" ] || [ ! -d "$meeting" ] && return 0
        heard=$(cat "$meeting/beat" 2>/dev/null)
        [ "$heard" = "$beat" ] || beat=$heard silent=$SECONDS
        if [ $((SECONDS - silent)) -gt 60 ]; then
            echo "error: task $rank: the conductor has been silent for 60 s" >&2
            exit 1
        fi
        ls "$meeting/orders" "$meeting" >/dev/null 2>&1
        sleep 0.1
    done
}

agent_leave() {
    trap '' INT TERM HUP
    [ -z "$child" ] || kill "$child" 2>/dev/null
    [ -z "$helper" ] || kill "$helper" 2>/dev/null
    stop_node
    [ "$rank" = 0 ] || [ -z "$watch" ] || kill "$watch" 2>/dev/null
    [ -z "$local_folder" ] || rm -rf "$local_folder"
    [ ! -d "$meeting/gone" ] || : >"$meeting/gone/$rank"
}

# Ends the node: asks, then does not.
stop_node() {
    local tries
    [ -n "$node" ] || return 0
    kill "$node" 2>/dev/null
    for ((tries = 0; tries < 100; tries++)); do
        kill -0 "$node" 2>/dev/null || break
        sleep 0.1
    done
    kill -KILL "$node" 2>/dev/null
    wait "$node" 2>/dev/null
    node=''
}

# shoal, talking to the node of this host.
ask_node() {
    limited "$step_limit" "$shoal" --node "$local_folder/node/shoal.sock" --token-file "$local_folder/token" "$@"
}

# The address of this host on the fabric.
fabric_address() {
    local list found
    if [ -n "$addresses" ]; then
        IFS=, read -ra list <<<"$addresses"
        found=${list[rank]:-}
    elif [ -n "$interface" ]; then
        found=$(ip -4 -o addr show dev "$interface" | awk '{ sub("/.*", "", $4); print $4; exit }')
    else
        found=$(ip -4 route get 198.51.100.1 2>/dev/null | sed -n 's/.* src \([0-9.]*\).*/\1/p')
    fi
    [ -n "$found" ] || echo "this host has no IPv4 address on ${interface:-its default route}: see --interface" >&2
    printf '%s' "$found"
}

# The RDMA device whose network interface has the fabric's address, or else the first with an active port.
rdma_device() {
    local device address link
    address=$(fabric_address 2>/dev/null)
    link=$(ip -4 -o addr show 2>/dev/null | awk -v address="$address" 'index($4, address "/") == 1 { print $2; exit }')
    for device in /sys/class/infiniband/*; do
        if [ -n "$link" ] && { [ -e "$device/device/net/$link" ] || [ "$(tr -d '\0' 2>/dev/null <"$device/parent")" = "$link" ]; }; then
            basename "$device"
            return
        fi
    done
    for device in /sys/class/infiniband/*; do
        if grep -qs ACTIVE "$device"/ports/*/state; then
            basename "$device"
            return
        fi
    done
}

# A word that may stand in JSON.
quoted() {
    local text=${1//\\/\\\\}
    text=${text//\"/\\\"}
    text=${text//$'\n'/\\n}
    text=${text//$'\t'/ }
    printf '"%s"' "$(printf %s "$text" | tr -d '\000-\037')"
}

# Tells of this host: an object for report.json in $meeting/nodes, and a row for report.md on standard output.
step_describe() {
    local machine row tool tools='' version
    for tool in ib_write_bw iperf3; do
        version=null
        if command -v "$tool" >/dev/null; then
            version=$(quoted "$(timeout 10 "$tool" --version 2>&1 | head -n 1)")
        fi
        tools+="${tools:+, }\"$tool\": $version"
    done
    version=$(timeout 10 "$shoal" --version) || return
    machine=$(timeout 60 "$shoal" doctor --host) || return
    {
        echo "{\"rank\": $rank, \"address\": $(quoted "$(fabric_address)"), \"tools\": {$tools},"
        echo "\"rdma_device\": $(quoted "$(rdma_device)"),"
        # What the program tells is an object of its own, which goes on here.
        echo "${machine#"{"}"
    } >"$meeting/nodes/$rank.json"
    row=$(sed -n 's/^ *"rate": "\(.*\)",*/\1/p' <<<"$machine" | paste -s -d ,)
    printf '| %s | %s | %s | %s | %s | %s |\n' "$host" "$(fabric_address)" "$(uname -r)" "$(nproc)" "${row:-none}" "$version"
}

# Starts the node of this host, which is the head on the first one, and waits until it answers.
step_serve() {
    local address head=() tries
    address=$(fabric_address)
    [ -n "$address" ] || return 1
    [ "$rank" = 0 ] || head=(--join "$(cat "$meeting/head")")
    cp "$meeting/token" "$local_folder/token" || return
    "$shoal" serve --name "n$rank" --data-dir "$local_folder/node" --listen "$address:$port" --max-memory "$memory" \
        --token-file "$local_folder/token" ${cores:+--cores "$cores"} --exit-with-parent "${head[@]}" </dev/null \
        >>"$report/log/node-$rank.log" 2>&1 &
    node=$!
    for ((tries = 0; tries < 300; tries++)); do
        kill -0 "$node" 2>/dev/null || { echo "the node ended: $(tail -n 3 "$report/log/node-$rank.log")" >&2; return 1; }
        if ask_node status --json >"$local_folder/status" 2>/dev/null; then
            sed -n 's/.*"address": "\(.*\)".*/\1/p' "$local_folder/status" | head -n 1
            return 0
        fi
        sleep 0.2
    done
    echo "the node does not answer" >&2
    return 1
}

# How many nodes this one knows in a state.
step_count() {
    ask_node node ls --json >"$local_folder/nodes" || return
    grep -c "\"state\": \"$1\"" "$local_folder/nodes" || true
}

# Makes a tree of every kind of file, and tells all tasks what it consists of.
step_tree() {
    local tree=$local_folder/tree-$1 number
    mkdir -p "$tree/folder/inner" "$tree/empty" "$tree/a name with spaces" || return
    head -c $((tree_mib << 20)) /dev/urandom >"$tree/large" || return
    for ((number = 1; number <= 40; number++)); do
        head -c $((number * number * 137)) /dev/urandom >"$tree/folder/inner/$number" || return
    done
    : >"$tree/folder/nothing"
    echo 'exit 0' >"$tree/a name with spaces/script" && chmod 755 "$tree/a name with spaces/script"
    ln -s folder/inner "$tree/link"
    contents "$tree" >"$meeting/trees/$1.part" && mv "$meeting/trees/$1.part" "$meeting/trees/$1"
}

# What a tree consists of: the digest of every file, and every folder and link.
contents() {
    (cd "$1" && find . -type f -print0 | sort -z | xargs -0 sha256sum &&
        find . -type f -perm -u+x | sort && find . ! -type f -printf '%y %p %l\n' | sort)
}

# Puts a tree that was made here under a key.
step_put() {
    ask_node put "validation/$1" --src "$local_folder/tree-$1" --json "${@:2}"
}

# Gets a key, checks every digest, and compares the tree with the one that was put.
step_get() {
    local tree=$local_folder/got status
    rm -rf "$tree"
    ask_node get "validation/$1" --dest "$tree" --verify --json || return
    contents "$tree" | diff "$meeting/trees/$1" - >&2
    status=$?
    rm -rf "$tree"
    return "$status"
}

# Kills the node as soon as bytes of the key have come to it.
step_lose() {
    local before get tries
    before=$(received)
    "$shoal" --node "$local_folder/node/shoal.sock" --token-file "$local_folder/token" \
        get "validation/$1" --dest "$local_folder/lost" >/dev/null 2>&1 &
    get=$!
    for ((tries = 0; tries < 200; tries++)); do
        [ "$(received)" = "$before" ] || break
        kill -0 "$get" 2>/dev/null || break
    done
    kill -KILL "$node"
    wait "$node" 2>/dev/null
    node=''
    wait "$get"
    echo "get ended with status $? when its node was killed"
    rm -rf "$local_folder/lost"
}

# All bytes that came to this node, whichever way.
received() {
    ask_node status --json | awk -F '[:,]' '/"bytes_received/ { sum += $2 } END { print sum + 0 }'
}

# Measures with `shoal bench`; its JSON is the output.
step_bench() {
    ask_node bench "$@" --size "$size" --rounds "$rounds" --json
}

step_status() {
    ask_node status --json >"$meeting/nodes/$rank.status.json"
}

# The server of ib_write_bw or iperf3, for one client.
step_peer_serve() {
    local words=(iperf3 --server --one-off --bind "$(fabric_address)" --port "$peer_port")
    if [ "$1" = ib_write_bw ]; then
        words=(ib_write_bw -d "$(rdma_device)" -s 1048576 -D "$peer_seconds" --report_gbits -F -p "$peer_port")
    fi
    timeout --kill-after=10 "$step_limit" "${words[@]}" &
    helper=$!
}

# Its client; prints gigabits per second. It calls until the server listens.
step_peer_call() {
    local words=(iperf3 --client "$2" --port "$peer_port" --time "$peer_seconds" --parallel 4 --json) tries
    if [ "$1" = ib_write_bw ]; then
        words=(ib_write_bw -d "$(rdma_device)" -s 1048576 -D "$peer_seconds" --report_gbits -F -p "$peer_port" "$2")
    fi
    for ((tries = 0; tries < 20; tries++)); do
        if limited $((peer_seconds + 30)) "${words[@]}" >"$local_folder/peer"; then
            if [ "$1" = ib_write_bw ]; then
                # Where it knows no clock rate it prints 0 or infinity.
                awk '$1 == 1048576 && $4 > 0 && $4 != "inf" { print $4; found = 1 } END { exit !found }' "$local_folder/peer" ||
                    { echo "ib_write_bw gave no rate: $(grep 1048576 "$local_folder/peer")" >&2; return 1; }
            else
                awk -F '[:,]' '/"sum_received"/ { sum = 1 }
                    sum && /"bits_per_second"/ { print $2 / 1e9; found = 1; exit } END { exit !found }' "$local_folder/peer"
            fi
            return
        fi
        sleep 0.5
    done
    cat "$local_folder/peer" >&2
    return 1
}

step_peer_stop() {
    [ -z "$helper" ] || kill "$helper" 2>/dev/null
    wait "$helper" 2>/dev/null
    helper=''
}
