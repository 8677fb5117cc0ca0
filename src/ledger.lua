-- A ledger on a server: one step of a run, or a reading of all, done at once or not at all.
--
-- KEYS[1] is the ledger's prefix; what stands under it is told in budget-tee(1). ARGV[1] is the
-- call, as JSON (server.rs). A run tells what it has used in all, by model; what is above what it
-- told before is added. So a call that comes twice, or late, adds nothing. Numbers are exact up to
-- TOP, and stay there.

local P = KEYS[1]
local call = cjson.decode(ARGV[1])
local TOP = 9007199254740991
local DAY = 86400

-- Sums of commands by span of time: how long a span is, and how long it is kept, in seconds. `ever`
-- is one span without an end. Budget::rooms and server.rs choose among the same.
local LEVELS = {
    ever = {},
    seconds = { step = 1, keep = 3600 },
    minutes = { step = 60, keep = 2 * DAY },
    hours = { step = 3600, keep = 60 * DAY },
    days = { step = DAY },
}
-- What a run used is remembered for so long after it was last heard of, and after its end.
local SILENT, ENDED = 7 * DAY, 3600

local clock = redis.call('TIME')
local now = clock[1] * 1000 + math.floor(clock[2] / 1000)

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

local function add_to(key, field, more)
    redis.call('HSET', key, field, text(add(five(redis.call('HGET', key, field)), more)))
end

local version, born, rev, expiry = unpack(redis.call('HMGET', P, 'v', 'born', 'rev', 'expiry'))
rev = tonumber(rev) or 0
if version and version ~= '1' then
    return redis.error_reply('NEWER a newer budget-tee has written to it')
end
local writes = call.verb ~= 'read'
if writes and not version then
    born = whole(now) .. '-' .. call.id
    redis.call('HSET', P, 'v', '1', 'born', born)
end
born = born or ''

local run = P .. ':run:' .. (call.id or '')
local ended = writes and redis.call('HGET', run, 'ended')

-- What the run used since it last told. Every sum that this changes is marked with a new revision.
local function spend()
    local more = { 0, 0, 0, 0, 0 }
    local changed = false
    for _, model in ipairs(call.models) do
        local field = 'model:' .. model[1]
        local told, new, rises = five(redis.call('HGET', run, field)), {}, false
        for i = 1, 5 do
            new[i] = math.max(0, model[i + 1] - told[i])
            told[i] = told[i] + new[i]
            rises = rises or new[i] > 0
        end
        if rises then
            changed = true
            redis.call('HSET', run, field, text(told))
            add_to(P .. ':models', model[1], new)
            add(more, new)
        end
    end
    if not changed then
        return
    end
    rev = redis.call('HINCRBY', P, 'rev', 1)
    add_to(run, 'spent', more)
    for name, level in pairs(LEVELS) do
        local key = P .. ':' .. name
        local span = level.step and math.floor(now / 1000 / level.step) or 0
        local field = whole(span) .. call.suffix
        add_to(key, field, more)
        if redis.call('ZADD', key .. ':rev', rev, field) == 1 and level.keep then
            for _, old in ipairs(redis.call('ZRANGE', key .. ':rev', 0, 3)) do
                local at = tonumber(string.match(old, '^%d+')) or 0
                if (at + 2) * level.step + level.keep < now / 1000 then
                    redis.call('HDEL', key, old)
                    redis.call('ZREM', key .. ':rev', old)
                end
            end
        end
    end
end

-- What is used, as far as it binds the run: of all, and of its command.
local function used()
    local all, own = { 0, 0, 0, 0, 0 }, { 0, 0, 0, 0, 0 }
    local step = LEVELS[call.level].step
    local fields = redis.call('HGETALL', P .. ':' .. call.level)
    for i = 1, #fields, 2 do
        local span, suffix = string.match(fields[i], '^(%d+)(.*)$')
        if span and (not step or (span + 1) * step * 1000 > now - call.window) then
            local sum = five(fields[i + 1])
            add(all, sum)
            if call.suffix ~= '' and suffix == call.suffix then
                add(own, sum)
            end
        end
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
    redis.call('ZREMRANGEBYSCORE', P .. ':leases', '-inf', now)
    local held, own_held = { 0, 0 }, { 0, 0 }
    local entered = false
    for _, id in ipairs(redis.call('ZRANGE', P .. ':leases', 0, -1)) do
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
        for _, room in ipairs(call.rooms) do
            local unit = room.unit
            local taken = room.of_command and own[unit] + own_held[unit] or all[unit] + held[unit]
            if taken > room.room then
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
    redis.call('ZADD', P .. ':leases', now + call.lease, call.id)
    redis.call('EXPIRE', run, SILENT)
end

local entered, held, own_held = true, { 0, 0 }, { 0, 0 }
if call.verb == 'admit' then
    if call.expiry then
        expiry = call.expiry > 0 and whole(call.expiry)
        if expiry then
            redis.call('HSET', P, 'expiry', expiry)
        else
            redis.call('HDEL', P, 'expiry')
        end
    end
    entered, held, own_held = admit()
    if entered then
        enter()
    end
elseif call.verb == 'step' then
    spend()
    if not ended then
        enter()
    end
elseif call.verb == 'leave' then
    spend()
    redis.call('HSET', run, 'ended', '1')
    redis.call('EXPIRE', run, ENDED)
    redis.call('ZREM', P .. ':leases', call.id)
end

if writes and (expiry or call.expiry) then
    local keys = { P, P .. ':models', P .. ':leases' }
    for name in pairs(LEVELS) do
        keys[#keys + 1] = P .. ':' .. name
        keys[#keys + 1] = P .. ':' .. name .. ':rev'
    end
    for _, key in ipairs(keys) do
        if expiry then
            redis.call('PEXPIRE', key, math.max(expiry, call.lease))
        else
            redis.call('PERSIST', key)
        end
    end
end

-- What has changed since the reader's revision; all where that is not of this ledger's life.
local since = call.born == born and call.since <= rev and call.since or 0
local cells = {}
for _, level in ipairs(call.look) do
    local key = P .. ':' .. level
    if since == 0 then
        local fields = redis.call('HGETALL', key)
        for i = 1, #fields, 2 do
            cells[#cells + 1] = level
            cells[#cells + 1] = fields[i]
            cells[#cells + 1] = fields[i + 1]
        end
    else
        for _, field in ipairs(redis.call('ZRANGEBYSCORE', key .. ':rev', '(' .. whole(since), '+inf')) do
            cells[#cells + 1] = level
            cells[#cells + 1] = field
            cells[#cells + 1] = redis.call('HGET', key, field) or ''
        end
    end
end

local alive = {}
if not writes then
    for _, id in ipairs(redis.call('ZRANGEBYSCORE', P .. ':leases', '(' .. whole(now), '+inf')) do
        local other = redis.call('HMGET', P .. ':run:' .. id, 'suffix', 'tokens', 'micro_usd', 'spent')
        alive[#alive + 1] = id
        for i = 1, 4 do
            alive[#alive + 1] = other[i] or ''
        end
    end
end

return {
    whole(now),
    born,
    whole(rev),
    since == 0 and 1 or 0,
    redis.call('HGET', run, 'spent') or '',
    entered and 1 or 0,
    { whole(held[1]), whole(held[2]), whole(own_held[1]), whole(own_held[2]) },
    cells,
    alive,
}
