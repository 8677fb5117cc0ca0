
# The wrapped command with its own completion, values after `=`, and comma lists.
_budget_tee() {
    local at cur=$2 prev=$3
    for ((at = 1; at < COMP_CWORD; at++)); do
        case ${COMP_WORDS[at]} in
        @VALUES@)
            [[ ${COMP_WORDS[at + 1]-} != '=' ]] || ((at++))
            ((at++))
            # readline splits `/review=50k` and `redis://host` into several words.
            while [[ ${COMP_WORDS[at + 1]-} == [=:]* && $((at + 1)) -lt COMP_CWORD ]]; do ((at += 2)); done
            ;;
        --)
            ((at++))
            break
            ;;
        -*) ;;
        *) break ;;
        esac
    done
    if ((at < COMP_CWORD)) || [[ $at -eq $COMP_CWORD && $cur != -* ]]; then
        if declare -F _command_offset >/dev/null; then
            _command_offset "$at"
        elif ((at == COMP_CWORD)); then
            mapfile -t COMPREPLY < <(compgen -c -- "$cur")
        fi
        return
    fi
    [[ $cur != '=' ]] || cur=
    [[ $prev != '=' ]] || prev=${COMP_WORDS[COMP_CWORD - 2]}
    case $prev in
    -t | --count)
        local list=${cur%"${cur##*,}"}
        mapfile -t COMPREPLY < <(compgen -P "$list" -W "input output cache-write cache-read" -- "${cur##*,}")
        ;;
    *) _budget__tee "$1" "$cur" "$prev" ;;
    esac
}
complete -F _budget_tee -o nosort -o bashdefault -o default budget-tee
