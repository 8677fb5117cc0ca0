-- A ledger on a server: one step of a run, or a reading of all, in one go.
--
-- KEYS[1] is the ledger's prefix; budget-tee(1) lists the keys under it. ARGV[1] is the call, as JSON
-- (protocol.rs). A run tells what it has spent in all, by model; what differs from what it told before is
-- added or taken off. So a call that comes twice changes nothing; and one that comes late, after a newer
-- one of its run, is known by its number. What could fail is done before anything is changed: a server
-- does not take back what a script has done before it failed.

local P = KEYS[1]
local call = cjson.decode(ARGV[1])
-- Lua's numbers are doubles, which are exact up to 2^53 - 1; sums stop there.
local TOP = 9007199254740991
local HOUR, DAY = 3600, 86400

-- Sums of commands by span of time: how long a span is, and how long it is kept, in seconds; protocol.rs
-- chooses among them. `ever` is one span without an end. What has changed is found by P:LEVEL:rev,
-- and what is old by P:LEVEL:at: a run that looks twice a second must not read a month of sums for it.
local LEVELS = {
    ever = {},
    seconds = { step = 1, keep = HOUR },
    minutes = { step = 60, keep = 31 * HOUR },
    -- A month may have 31 days and an hour.
    hours = { step = HOUR, keep = 32 * DAY },
    days = { step = DAY },
}
-- What a run used is remembered for so long after it was last heard of, and after its end: what it
-- tells again meanwhile, after an answer that was lost, must not count twice.
local SILENT, ENDED = 7 * DAY, HOUR
-- How many threads are remembered: those whose marks were set last.
local THREADS_MAX = 1024

-- Every key of the ledger, except those of its runs, and its kind.
local MODELS, LEASES, LIMITS, GRANTS = P .. ':models', P .. ':leases', P .. ':limits', P .. ':grants'
local KINDS = { [P] = 'hash', [MODELS] = 'hash', [LEASES] = 'zset', [LIMITS] = 'hash', [GRANTS] = 'zset' }
local THREADS, THREADS_AT = P .. ':threads', P .. ':threads:at'
KINDS[THREADS], KINDS[THREADS_AT] = 'hash', 'zset'
for name, level in pairs(LEVELS) do
    level.key = P .. ':' .. name
    KINDS[level.key], KINDS[level.key .. ':rev'], KINDS[level.key .. ':at'] = 'hash', 'zset', 'zset'
end

-- The server's clock: those of the machines that share a budget may be minutes apart.
local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

-- Not tostring, which writes large numbers as 1e+15.
local function whole(number)
    return string.format('%.0f', number)
end

-- Input, output, cache write, cache read, micro-dollars.
local function five(text)
    local a, b, c, d, e = string.match(text or '', '^(%d+) (%d+) (%d+) (%d+) (%d+)$')
    return { tonumber(a) or 0, tonumber(b) or 0, tonumber(c) or 0, tonumber(d) or 0, tonumber(e) or 0 }
end

local function text(sum)
    return string.format('%.0f %.0f %.0f %.0f %.0f', sum[1], sum[2], sum[3], sum[4], sum[5])
end

local function add(sum, more)
    for i = 1, 5 do
        sum[i] = math.min(TOP, sum[i] + more[i])
    end
    return sum
end

-- Nothing is taken off a figure that is full: nobody knows what was added beyond that.
local function take_off(sum, less)
    for i = 1, 5 do
        sum[i] = sum[i] == TOP and TOP or math.max(0, sum[i] - less[i])
    end
    return sum
end

-- What leads from one to the other: what is more, what is less, and whether there is any of either.
local function change(before, after)
    local more, less, rises, falls = {}, {}, false, false
    for i = 1, 5 do
        more[i], less[i] = math.max(0, after[i] - before[i]), math.max(0, before[i] - after[i])
        rises, falls = rises or more[i] > 0, falls or less[i] > 0
    end
    return more, less, rises, falls
end

local version, born, rev, expiry = unpack(redis.call('HMGET', P, 'v', 'born', 'rev', 'expiry'))
rev = tonumber(rev) or 0
if version and version ~= '1' then
    return redis.error_reply('NEWER a newer budget-tee has written to it')
end
local writes = call.verb ~= 'read' and call.verb ~= 'grant'
local run = P .. ':run:' .. (call.id or '')
if writes and not version then
    born = whole(now) .. '-' .. call.id
    redis.call('HSET', P, 'v', '1', 'born', born)
end
born = born or ''

-- Why a run cannot start here, if so: every key must be of its kind. Asked at the start only: with each
-- step it would be more work than the step itself.
local function obstacle()
    for key, kind in pairs(KINDS) do
        local is = redis.call('TYPE', key).ok
        if is ~= 'none' and is ~= kind then
            return key .. ' is a ' .. is .. ' and no ' .. kind
        end
    end
end

-- The server has forgotten this run, though not the ledger: what the run was told is recorded is
-- taken as what it told.
local function recall()
    if #call.told == 0 or call.told_in ~= born or redis.call('EXISTS', run) == 1 then
        return
    end
    local sum, fields = { 0, 0, 0, 0, 0 }, {}
    for _, model in ipairs(call.told) do
        fields[#fields + 1] = 'model:' .. model[1]
        fields[#fields + 1] = text(model[2])
        add(sum, model[2])
    end
    -- In one go: half of it would be taken for all.
    redis.call('HSET', run, 'spent', text(sum), 'call', whole(call.number), unpack(fields))
end

-- Forgets the oldest threads where there are too many, before others are added. Fails where a key is of
-- another kind.
local function forget_threads()
    redis.call('HEXISTS', THREADS, '')
    for _, old in ipairs(redis.call('ZRANGE', THREADS_AT, 0, -1 - THREADS_MAX)) do
        redis.call('HDEL', THREADS, old)
        redis.call('ZREM', THREADS_AT, old)
    end
end

-- Remembers how far threads have come, with the spend that brought them there. A call that comes twice, or
-- late, brings none: what it says of a thread is old.
local function remember(threads, has_spent)
    for _, thread in ipairs(threads) do
        local id, mark, is_news = unpack(thread)
        if has_spent and is_news or redis.call('HEXISTS', THREADS, id) == 0 then
            redis.call('HSET', THREADS, id, string.format('%.0f %.0f %.0f %.0f 0', unpack(mark)))
            redis.call('ZADD', THREADS_AT, now, id)
        end
    end
end

-- What the run has spent by this call on which model, where that differs from what it told before, and in all:
-- a list of changes, and the sums before and after. The last call counts, not the highest figures: a settlement
-- may lower a cost, and move what was spent from one model to another.
local function changes()
    local fields = { 'call', 'spent' }
    for i, model in ipairs(call.models) do
        fields[i + 2] = 'model:' .. model[1]
    end
    local words = redis.call('HMGET', run, unpack(fields))
    if call.number < (tonumber(words[1]) or 0) then
        return {}
    end
    local list, before, after, known = {}, five(words[2]), { 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0 }
    local function compare(name, told, total)
        local more, less, rises, falls = change(told, total)
        if rises or falls then
            list[#list + 1] = { name = name, more = more, less = less, total = total }
        end
        add(known, told)
        add(after, total)
    end
    for i, model in ipairs(call.models) do
        compare(model[1], five(words[i + 2]), model[2])
    end
    -- What it told before of models that it no longer names has moved to others. Mostly there are none.
    if text(known) ~= text(before) then
        local named, all = {}, redis.call('HGETALL', run)
        for _, field in ipairs(fields) do
            named[field] = true
        end
        for i = 1, #all, 2 do
            local name = string.match(all[i], '^model:(.*)$')
            if name and not named[all[i]] then
                compare(name, five(all[i + 1]), { 0, 0, 0, 0, 0 })
            end
        end
    end
    return list, before, after
end

-- Takes `less` off the latest spans of the command in a level. `sums` gets what is in them then, by field.
local function take_off_spans(level, less, sums)
    local span, first = 0, 0
    if level.step then
        local begin = (tonumber(string.match(born, '^%d+')) or 0) / 1000
        span = math.floor(now / 1000 / level.step)
        first = math.floor(math.max(begin, now / 1000 - (level.keep or now)) / level.step)
    end
    local left, total = { unpack(less) }, less[1] + less[2] + less[3] + less[4] + less[5]
    -- So many at once: mostly the latest ones have all of it.
    while span >= first and total > 0 do
        local fields = {}
        for back = 0, math.min(99, span - first) do
            fields[#fields + 1] = whole(span - back) .. call.suffix
        end
        span = span - #fields
        for i, word in ipairs(redis.call('HMGET', level.key, unpack(fields))) do
            if word and total > 0 then
                local sum, part = five(word), {}
                for j = 1, 5 do
                    part[j] = math.min(sum[j], left[j])
                    left[j], total = left[j] - part[j], total - part[j]
                end
                sums[fields[i]] = take_off(sum, part)
            end
        end
    end
end

-- Records what the run used by this call, and returns whether that differs from what it told before. Every sum
-- that this changes is marked with a new revision.
local function spend()
    local list, before, after = changes()
    if #list == 0 then
        return false
    end
    local more, less, rises, falls = change(before, after)
    -- First what may be done twice, and what reads, then what changes: where a key is of another kind or a
    -- right is missing, nothing was changed.
    rev = redis.call('HINCRBY', P, 'rev', 1)
    local writes, figures = {}, { 'call', whole(call.number), 'spent', text(after) }
    for _, level in pairs(LEVELS) do
        local key, sums = level.key, {}
        local span = level.step and math.floor(now / 1000 / level.step) or 0
        local latest = whole(span) .. call.suffix
        if falls then
            take_off_spans(level, less, sums)
        end
        if rises then
            sums[latest] = add(sums[latest] or five(redis.call('HGET', key, latest)), more)
        end
        for field, sum in pairs(sums) do
            writes[#writes + 1] = { key, field, text(sum) }
            if redis.call('ZADD', key .. ':rev', rev, field) == 1 and level.step and field == latest then
                redis.call('ZADD', key .. ':at', span, field)
                local until_when = level.keep and math.floor((now / 1000 - level.keep) / level.step) - 1 or -1
                -- A few with each new span: they go faster than they come, and no step has many to remove.
                for _, old in ipairs(redis.call('ZRANGEBYSCORE', key .. ':at', '-inf', until_when, 'LIMIT', 0, 4)) do
                    redis.call('HDEL', key, old)
                    redis.call('ZREM', key .. ':rev', old)
                    redis.call('ZREM', key .. ':at', old)
                end
            end
        end
    end
    for _, model in ipairs(list) do
        local sum = take_off(add(five(redis.call('HGET', MODELS, model.name)), model.more), model.less)
        writes[#writes + 1] = { MODELS, model.name, text(sum) }
        figures[#figures + 1] = 'model:' .. model.name
        figures[#figures + 1] = text(model.total)
    end
    for _, write in ipairs(writes) do
        redis.call('HSET', write[1], write[2], write[3])
    end
    redis.call('HSET', run, unpack(figures))
    return true
end

-- When what a look counts begins, in milliseconds; 0 where everything counts.
local function from(look)
    local at = look.back > 0 and now - look.back or 0
    -- By the clocks of two machines it may be another period: the one that is now by this one counts.
    for _, begin in ipairs(look.begins) do
        at = begin > 0 and begin <= now and begin or at
    end
    return at
end

-- The fields of a look's level, and what is in them, as far as they have changed since `since`; where
-- that is 0, as far as they end in its time.
-- Each once: `used` reads what the answer has, too.
local read_before = {}
local function read(look, since)
    local level, at = look.level, from(look)
    local name = level .. ' ' .. whole(since) .. ' ' .. whole(at)
    if read_before[name] then
        return unpack(read_before[name])
    end
    local key = P .. ':' .. level
    local step = (LEVELS[level] or {}).step
    local fields, sums = {}, {}
    if since > 0 then
        fields = redis.call('ZRANGEBYSCORE', key .. ':rev', '(' .. whole(since), '+inf')
    elseif step and at > 0 then
        local first = math.floor(at / 1000 / step)
        fields = redis.call('ZRANGEBYSCORE', key .. ':at', first, '+inf')
    else
        for i, word in ipairs(redis.call('HGETALL', key)) do
            local list = i % 2 == 1 and fields or sums
            list[#list + 1] = word
        end
    end
    -- As many at once as the stack of a script takes.
    for first = #sums + 1, #fields, 1000 do
        for _, sum in ipairs(redis.call('HMGET', key, unpack(fields, first, math.min(first + 999, #fields)))) do
            sums[#sums + 1] = sum or ''
        end
    end
    read_before[name] = { fields, sums }
    return fields, sums
end

-- What is used, as far as it binds the run: of all, and of its command.
local function used()
    local all, own = { 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0 }
    local look = call.look[1]
    local step = LEVELS[look.level].step
    local fields, sums = read(look, 0)
    local begin = from(look)
    for i, field in ipairs(fields) do
        local span, suffix = string.match(field, '^(%d+)(.*)$')
        if span and (not step or (span + 1) * step * 1000 > begin) then
            local sum = five(sums[i])
            add(all, sum)
            if call.suffix ~= '' and suffix == call.suffix then
                add(own, sum)
            end
        end
    end
    return all, own
end

-- What was granted in the time of the look that binds the run: to all, and to its command.
local function granted()
    local all, own = { 0, 0 }, { 0, 0 }
    for _, grant in ipairs(redis.call('ZRANGEBYSCORE', GRANTS, whole(from(call.look[1])), '+inf')) do
        local tokens, micro_usd, suffix = string.match(grant, '^%S+ (%d+) (%d+)(.*)$')
        local sum = suffix == '' and all or suffix == call.suffix and own or {}
        sum[1] = math.min(TOP, (sum[1] or 0) + (tonumber(tokens) or 0))
        sum[2] = math.min(TOP, (sum[2] or 0) + (tonumber(micro_usd) or 0))
    end
    return all, own
end

-- Tokens that count, and micro-dollars.
local function counted(sum)
    local tokens = 0
    for i = 1, 4 do
        if call.classes[i] then
            tokens = tokens + sum[i]
        end
    end
    return { math.min(TOP, tokens), sum[5] }
end

-- Whether the run may start, and what the others that are alive hold: of all, and of its command.
local function admit()
    -- Whoever may not do all that a run does is told so now, and not when it has spent something.
    redis.call('HINCRBY', P, 'rev', 0)
    redis.call('HDEL', P, '')
    redis.call('ZREM', LEASES, '')
    redis.call('ZRANGEBYSCORE', LEASES, 0, 0)
    redis.call('EXISTS', run)
    redis.call('ZREMRANGEBYSCORE', LEASES, '-inf', now)
    local held, own_held = { 0, 0 }, { 0, 0 }
    local entered = false
    for _, id in ipairs(redis.call('ZRANGE', LEASES, 0, -1)) do
        if id == call.id then
            -- The answer to the first time was lost.
            entered = true
        else
            local other = redis.call('HMGET', P .. ':run:' .. id, 'suffix', 'tokens', 'micro_usd', 'spent')
            local spent = counted(five(other[4]))
            for unit = 1, 2 do
                local left = math.max(0, (tonumber(other[unit + 1]) or 0) - spent[unit])
                held[unit] = math.min(TOP, held[unit] + left)
                if call.suffix ~= '' and other[1] == call.suffix then
                    own_held[unit] = math.min(TOP, own_held[unit] + left)
                end
            end
        end
    end
    if not entered and call.must_fit then
        local all, own = used()
        all, own = counted(all), counted(own)
        local more, own_more = granted()
        for _, room in ipairs(call.rooms) do
            local unit = room.unit
            local taken = room.of_command and own[unit] + own_held[unit] or all[unit] + held[unit]
            local limit = room.limit + (room.of_command and own_more[unit] or more[unit])
            if taken + room.estimate > limit then
                return false, held, own_held
            end
        end
    end
    return true, held, own_held
end

-- The run is there, and holds its estimate, until its lease ends.
local function enter()
    if redis.call('HEXISTS', run, 'tokens') == 0 then
        local tokens, micro_usd = whole(call.estimate[1]), whole(call.estimate[2])
        redis.call('HSET', run, 'suffix', call.suffix, 'tokens', tokens, 'micro_usd', micro_usd)
    end
    redis.call('ZADD', LEASES, now + call.lease, call.id)
    redis.call('EXPIRE', run, math.max(SILENT, math.ceil(call.lease / 500)))
end

local entered, held, own_held = true, { 0, 0 }, { 0, 0 }
if writes and call.expiry and (call.verb == 'admit' or not version) then
    expiry = call.expiry > 0 and whole(call.expiry)
    if expiry then
        redis.call('HSET', P, 'expiry', expiry)
    else
        redis.call('HDEL', P, 'expiry')
    end
end
if call.verb == 'admit' then
    KINDS[run] = 'hash'
    local wrong = obstacle()
    KINDS[run] = nil
    if wrong then
        return redis.error_reply('WRONGTYPE ' .. wrong)
    end
    entered, held, own_held = admit()
    if entered then
        enter()
        for _, limit in ipairs(call.limits or {}) do
            redis.call('HSET', LIMITS, limit[1], limit[2])
        end
    end
elseif writes then
    recall()
    if call.threads then
        forget_threads()
    end
    remember(call.threads or {}, spend())
    if call.verb == 'leave' then
        redis.call('HSET', run, 'ended', '1')
        redis.call('EXPIRE', run, ENDED)
        redis.call('ZREM', LEASES, call.id)
    elseif not redis.call('HGET', run, 'ended') then
        enter()
    end
end

-- The same one twice, where the answer to the first time was lost, is one.
if call.verb == 'grant' and version then
    local grant = { call.id, whole(call.estimate[1]), whole(call.estimate[2]) .. call.suffix }
    redis.call('ZADD', GRANTS, 'NX', now, table.concat(grant, ' '))
    redis.call('HINCRBY', P, 'rev', 1)
end

-- A ledger that nobody uses is dropped, but not while a run may come back to it.
if (writes or call.verb == 'grant') and (expiry or call.expiry) then
    local last = redis.call('ZRANGE', LEASES, -1, -1, 'WITHSCORES')[2]
    local after = expiry and math.max(tonumber(expiry) or 0, (tonumber(last) or now) - now)
    for key in pairs(KINDS) do
        if after then
            redis.call('PEXPIRE', key, whole(after))
        else
            redis.call('PERSIST', key)
        end
    end
end

-- What has changed since the reader's revision; all where that is not of this ledger's life.
local since = call.born == born and call.since <= rev and call.since or 0
local cells = {}
for _, look in ipairs(call.look) do
    local fields, sums = read(look, since)
    for i, field in ipairs(fields) do
        local at = #cells
        cells[at + 1], cells[at + 2], cells[at + 3] = look.level, field, sums[i]
    end
end

local alive, limits, grants = {}, {}, {}
if call.verb == 'read' then
    limits = redis.call('HGETALL', LIMITS)
    local all = redis.call('ZRANGE', GRANTS, 0, -1, 'WITHSCORES')
    for i = 1, #all, 2 do
        local id, tokens, micro_usd, suffix = string.match(all[i], '^(%S+) (%d+) (%d+)(.*)$')
        for _, word in ipairs({ all[i + 1], id or '', tokens or '', micro_usd or '', suffix or '' }) do
            grants[#grants + 1] = word
        end
    end
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', LEASES, '(' .. whole(now), '+inf')) do
        local other = redis.call('HMGET', P .. ':run:' .. id, 'suffix', 'tokens', 'micro_usd', 'spent')
        alive[#alive + 1] = id
        for i = 1, 4 do
            alive[#alive + 1] = other[i] or ''
        end
    end
end

local more, own_more = granted()
return {
    whole(now),
    born,
    whole(rev),
    since == 0 and 1 or 0,
    redis.call('HGET', run, 'spent') or '',
    entered and 1 or 0,
    { whole(held[1]), whole(held[2]), whole(own_held[1]), whole(own_held[2]) },
    { whole(more[1]), whole(more[2]), whole(own_more[1]), whole(own_more[2]) },
    cells,
    alive,
    limits,
    grants,
}
