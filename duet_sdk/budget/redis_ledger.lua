-- The rules of booking on the keys of a RedisLedger. One call of this script is one step: nothing runs concurrently.
--
-- KEYS[1]  the ledger's prefix; its hash tag puts every key of the ledger into one slot
-- ARGV     operation, microseconds since the epoch ('' for this server's clock), then what the operation takes
--
-- PREFIX:meta          hash    version, time (never goes back), number (of the last entry)
-- PREFIX:limits        hash    scope -> usd|reasoner_tokens|generator_tokens|requests|window, empty for none
-- PREFIX:used          zset    scope -> when it was last used
-- PREFIX:scope:SCOPE   hash    START:INDEX -> spent (1-4), overrun (5-8) and held (9-12) of a slice of time
-- PREFIX:hold:ID       hash    scopes, made, u1-u4, priced, facts; charged; r1-r4 once settled
-- PREFIX:due           zset    id of an open hold -> when it expires
-- PREFIX:entries       stream  booked-number -> status, hold, scopes, made, priced, facts, u1-u4, o1-o4
--
-- Counters are changed by HINCRBY, which is exact to 64 bits. Lua computes in doubles, exact to 2^53; no limit and no
-- amount is above 9e15, and a sum that is rounded is far above every limit.
--
-- A server that evicts keys, or a person, may take any of them. What is lost is lost, but nothing else stops for it: a
-- hold without its hash is dropped and the held sums are counted anew from those that are left, and no held sum goes
-- below 0.

local FORMAT = 2
-- The next five are as rules.py and window.py have them, with the reasons.
local REMEMBER_S = 86400
local EXPIRED_AT_ONCE = 20
local LENGTHS = {minute = 60e6, hour = 3600e6, day = 86400e6}
local UNITS = {s = 1e6, m = 60e6, h = 3600e6, d = 86400e6}
local SLICES = 60

local prefix = KEYS[1]
local meta, limits, used, due, entries =
  prefix .. ':meta', prefix .. ':limits', prefix .. ':used', prefix .. ':due', prefix .. ':entries'
local call = redis.call

local function text(number) -- a whole number; tostring would write 1.8e+15, and %.0f can write -0
  return number == 0 and '0' or string.format('%.0f', number)
end

local function words(joined)
  local found = {}
  for word in string.gmatch(joined, '%S+') do found[#found + 1] = word end
  return found
end

local function fields(key) -- empty for what is no hash
  local flat, found = redis.pcall('HGETALL', key), {}
  if flat.err then return found end
  for i = 1, #flat, 2 do found[flat[i]] = flat[i + 1] end
  return found
end

local function four(values, name)
  local found = {}
  for i = 1, 4 do found[i] = tonumber(values[name .. i] or 0) end
  return found
end

local function negative(amounts)
  return {-amounts[1], -amounts[2], -amounts[3], -amounts[4]}
end

local NOTHING = {0, 0, 0, 0}

-- Windows: as window.py has them.

local function month(at)
  local days = math.floor(at / LENGTHS.day)
  local z = days + 719468 -- days since 0000-03-01, so that a leap day is the last of its year
  local day_of_era = math.fmod(z, 146097)
  local year = math.floor((day_of_era - math.floor(day_of_era / 1460) + math.floor(day_of_era / 36524)
    - math.floor(day_of_era / 146096)) / 365)
  local day_of_year = day_of_era - (365 * year + math.floor(year / 4) - math.floor(year / 100))
  local march_based = math.floor((5 * day_of_year + 2) / 153)
  local day = day_of_year - math.floor((153 * march_based + 2) / 5)
  return (days - day) * LENGTHS.day
end

local function length_of(window)
  local count, unit = string.match(window, '^rolling:(%d+)(%a)$')
  return count and tonumber(count) * UNITS[unit] or 0
end

local function slice_of(window, at)
  if window == '' then return 0 end
  if window == 'month' then return month(at) end
  local length = LENGTHS[window] or math.ceil(length_of(window) / SLICES)
  return at - math.fmod(at, length)
end

local function oldest(window, now)
  return slice_of(window, math.max(0, now - length_of(window)))
end

-- Scopes.

local function limit_of(scope)
  local stored = call('HGET', limits, scope)
  if not stored then return nil, '' end
  local usd, reasoner, generator, requests, window = string.match(stored, '^(%d*)|(%d*)|(%d*)|(%d*)|(.*)$')
  return {tonumber(usd), tonumber(reasoner), tonumber(generator), tonumber(requests)}, window, stored
end

-- The sums of the present window, 1-12 as the hash has them; what has left it is deleted.
local function sums(scope, window, now)
  local key, first, total, old = prefix .. ':scope:' .. scope, oldest(window, now), {}, {}
  for i = 1, 12 do total[i] = 0 end
  local flat = call('HGETALL', key)
  for i = 1, #flat, 2 do
    local start, index = string.match(flat[i], '^(%d+):(%d+)$')
    if tonumber(start) >= first then
      total[tonumber(index)] = total[tonumber(index)] + tonumber(flat[i + 1])
    else
      old[#old + 1] = flat[i]
    end
  end
  for i = 1, #old do call('HDEL', key, old[i]) end
  return total
end

local function increase(key, field, units)
  local after = redis.pcall('HINCRBY', key, field, text(units))
  -- A sum at the end of 64 bits stays there.
  if type(after) == 'table' and not string.find(after.err, 'overflow', 1, true) then return error(after) end
  return after
end

local function add(scope, window, made, now, spent, overrun, held)
  local start = slice_of(window, made)
  if start < oldest(window, now) then return end
  local key, place = prefix .. ':scope:' .. scope, text(start) .. ':'
  for i = 1, 4 do
    if spent[i] ~= 0 then increase(key, place .. i, spent[i]) end
    if overrun[i] ~= 0 then increase(key, place .. (i + 4), overrun[i]) end
    if held[i] ~= 0 then
      local after = increase(key, place .. (i + 8), held[i])
      if type(after) == 'number' and after < 0 then call('HDEL', key, place .. (i + 8)) end
    end
  end
end

local function change(scopes, made, now, spent, overrun, held)
  for _, scope in ipairs(words(scopes)) do
    local _, window = limit_of(scope)
    add(scope, window, made, now, spent, overrun, held)
    call('ZADD', used, text(now), scope)
  end
end

-- Holds.

local function hold_of(id) -- nil where it was lost
  local hold = fields(prefix .. ':hold:' .. id)
  return hold.scopes and tonumber(hold.made) and hold or nil
end

-- Count anew what is held in the scopes with a limit: a hold was lost, and with it what it held of which scope.
local function count_held(now)
  local windows = {}
  for _, scope in ipairs(call('HKEYS', limits)) do
    local key = prefix .. ':scope:' .. scope
    local _, window = limit_of(scope)
    windows[scope] = window
    for field in pairs(fields(key)) do
      if tonumber(string.match(field, ':(%d+)$')) > 8 then call('HDEL', key, field) end
    end
  end
  for _, id in ipairs(call('ZRANGE', due, 0, -1)) do
    local hold = hold_of(id)
    for _, scope in ipairs(words(hold and hold.scopes or '')) do
      if windows[scope] then add(scope, windows[scope], tonumber(hold.made), now, NOTHING, NOTHING, four(hold, 'u')) end
    end
  end
end

local function write(now, status, hold, scopes, made, priced, facts, spent, overrun)
  local number = call('HINCRBY', meta, 'number', 1)
  call('XADD', entries, text(now) .. '-' .. number, 'status', status, 'hold', hold, 'scopes', scopes,
    'made', text(made), 'priced', priced, 'facts', facts,
    'u1', text(spent[1]), 'u2', text(spent[2]), 'u3', text(spent[3]), 'u4', text(spent[4]),
    'o1', text(overrun[1]), 'o2', text(overrun[2]), 'o3', text(overrun[3]), 'o4', text(overrun[4]))
end

local function finish(id)
  call('ZREM', due, id)
  call('EXPIRE', prefix .. ':hold:' .. id, REMEMBER_S)
end

local function expire(now, most)
  local late = call('ZRANGEBYSCORE', due, '-inf', text(now), 'LIMIT', 0, most)
  local lost = false
  for _, id in ipairs(late) do
    local hold = hold_of(id)
    if hold then
      local units, made = four(hold, 'u'), tonumber(hold.made)
      change(hold.scopes, made, now, units, NOTHING, negative(units))
      write(now, 'expired', id, hold.scopes, made, hold.priced or '0', hold.facts or '{}', units, NOTHING)
      call('HSET', prefix .. ':hold:' .. id, 'charged', 1)
      finish(id)
    else
      call('ZREM', due, id)
      lost = true
    end
  end
  if lost then count_held(now) end
  return #late
end

local function settle(now, id, scopes, made, real, priced, facts, asked)
  local key = prefix .. ':hold:' .. id
  local hold = fields(key)
  if asked and not hold.scopes and call('ZSCORE', due, id) then -- lost, while its caller still knows what it held
    call('DEL', key)
    for i = 1, 4 do hold['u' .. i] = asked[i] end
    hold.scopes, hold.priced = scopes, priced
  end
  if hold.r1 then
    local before = four(hold, 'r')
    for i = 1, 4 do
      if before[i] ~= real[i] then
        return {'otherwise', text(before[1]), text(before[2]), text(before[3]), text(before[4])}
      end
    end
    return {'done'}
  end
  local known, charged, held = hold.scopes ~= nil, hold.charged ~= nil, four(hold, 'u')
  local spent, overrun, status = {}, {}, 'settled'
  for i = 1, 4 do
    spent[i] = real[i] - (charged and held[i] or 0)
    overrun[i] = math.max(0, real[i] - held[i])
    if i == 1 and known and hold.priced == '0' then overrun[i] = 0 end -- no limit in money was held
    if overrun[i] > 0 then status = 'overrun' end
  end
  change(scopes, made, now, spent, overrun, charged and NOTHING or negative(held))
  write(now, charged and 'corrected' or status, id, scopes, made, priced, facts, spent, overrun)
  call('HSET', key, 'scopes', scopes, 'made', text(made), 'priced', known and hold.priced or priced,
    'r1', text(real[1]), 'r2', text(real[2]), 'r3', text(real[3]), 'r4', text(real[4]))
  finish(id)
  return {'done'}
end

local operations = {}

-- id, scopes, priced, u1-u4, ttl, facts -> made, made at, known or new (the ledger) | used | refused, time, the standing of each limited scope
function operations.hold(now)
  local id, scopes, priced, ttl, facts = ARGV[3], ARGV[4], ARGV[5], tonumber(ARGV[10]), ARGV[11]
  local asked = {tonumber(ARGV[6]), tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9])}
  local key = prefix .. ':hold:' .. id
  expire(now, EXPIRED_AT_ONCE)
  local known = fields(key)
  if known.scopes then
    local same = known.scopes == scopes and known.priced == priced
    for i, units in ipairs(four(known, 'u')) do same = same and units == asked[i] end
    return same and {'made', known.made} or {'used'}
  end
  local standings, fits = {'refused', text(now)}, true
  for _, scope in ipairs(words(scopes)) do
    local limit, window, stored = limit_of(scope)
    if limit then
      local total = sums(scope, window, now)
      local standing = {scope, stored}
      for i = 1, 4 do
        if limit[i] and asked[i] > 0 and total[i] + total[i + 8] + asked[i] > limit[i] then fits = false end
        standing[i + 2], standing[i + 6] = text(total[i]), text(total[i + 8])
      end
      if limit[1] and priced == '0' then fits = false end
      standings[#standings + 1] = standing
    end
  end
  if not fits then return standings end
  change(scopes, now, now, NOTHING, NOTHING, asked)
  call('HSET', key, 'scopes', scopes, 'made', text(now), 'priced', priced, 'facts', facts,
    'u1', text(asked[1]), 'u2', text(asked[2]), 'u3', text(asked[3]), 'u4', text(asked[4]))
  call('ZADD', due, text(now + ttl), id)
  return {'made', text(now)}
end

-- id, scopes, made, priced, r1-r4, facts, u1-u4 -> done, known or new | otherwise, r1-r4 of before
function operations.settle(now)
  expire(now, EXPIRED_AT_ONCE)
  local real = {tonumber(ARGV[7]), tonumber(ARGV[8]), tonumber(ARGV[9]), tonumber(ARGV[10])}
  local asked = {tonumber(ARGV[12]), tonumber(ARGV[13]), tonumber(ARGV[14]), tonumber(ARGV[15])}
  return settle(now, ARGV[3], ARGV[4], tonumber(ARGV[5]), real, ARGV[6], ARGV[11], asked)
end

-- id, scopes, made, u1-u4 -> done
function operations.release(now)
  local key = prefix .. ':hold:' .. ARGV[3]
  local hold = fields(key)
  if not hold.scopes and ARGV[4] and call('ZSCORE', due, ARGV[3]) then -- lost, as in settle
    hold = {scopes = ARGV[4], made = ARGV[5], u1 = ARGV[6], u2 = ARGV[7], u3 = ARGV[8], u4 = ARGV[9]}
  end
  if not hold.scopes or hold.r1 then return {'done'} end
  if hold.charged then
    return settle(now, ARGV[3], hold.scopes, tonumber(hold.made), NOTHING, hold.priced, hold.facts)
  end
  change(hold.scopes, tonumber(hold.made), now, NOTHING, NOTHING, negative(four(hold, 'u')))
  call('DEL', key)
  call('ZREM', due, ARGV[3])
  return {'done'}
end

-- scope, limit as it is stored ('' for none) -> done
function operations.set_limit(now)
  local scope, stored = ARGV[3], ARGV[4]
  local _, before = limit_of(scope)
  if stored == '' then call('HDEL', limits, scope) else call('HSET', limits, scope, stored) end
  call('ZADD', used, text(now), scope)
  local _, window = limit_of(scope)
  if window == before then return {'done'} end
  call('DEL', prefix .. ':scope:' .. scope)
  local padded = ' ' .. scope .. ' '
  local from = text(oldest(window, now))
  while true do
    local page = call('XRANGE', entries, from, '+', 'COUNT', 1000)
    for _, line in ipairs(page) do
      local entry = {}
      for i = 1, #line[2], 2 do entry[line[2][i]] = line[2][i + 1] end
      if string.find(' ' .. entry.scopes .. ' ', padded, 1, true) then
        add(scope, window, tonumber(entry.made), now, four(entry, 'u'), four(entry, 'o'), NOTHING)
      end
      from = '(' .. line[1]
    end
    if #page < 1000 then break end
  end
  for _, id in ipairs(call('ZRANGE', due, 0, -1)) do
    local hold = hold_of(id)
    if hold and string.find(' ' .. hold.scopes .. ' ', padded, 1, true) then
      add(scope, window, tonumber(hold.made), now, NOTHING, NOTHING, four(hold, 'u'))
    end
  end
  return {'done'}
end

-- scope -> limit as it is stored ('' for none), spent, overrun and held; charges what has expired, as far as asked
function operations.balance(now)
  local _, window, stored = limit_of(ARGV[3])
  local found = {stored or ''}
  for i, total in ipairs(sums(ARGV[3], window, now)) do found[i + 1] = text(total) end
  return found
end

-- how many -> how many were charged
function operations.expire(now)
  return {expire(now, tonumber(ARGV[3]))}
end

-- before, how many -> how many entries were deleted; with the last, the scopes without a limit that are unused since
function operations.prune()
  local old = call('XRANGE', entries, '-', '(' .. ARGV[3] .. '-0', 'COUNT', ARGV[4])
  for _, line in ipairs(old) do call('XDEL', entries, line[1]) end
  if #old < tonumber(ARGV[4]) then
    for _, scope in ipairs(call('ZRANGEBYSCORE', used, '-inf', '(' .. ARGV[3])) do
      if call('HEXISTS', limits, scope) == 0 then
        call('DEL', prefix .. ':scope:' .. scope)
        call('ZREM', used, scope)
      end
    end
  end
  return {#old}
end

-- Each brings the keys from its format to the next.
local migrations = {
  [1] = function() end, -- format 2 has input_tokens and output_tokens in facts; where they lack they read as 0
}

local known = call('HGET', meta, 'version')
local version = tonumber(known or FORMAT)
if version > FORMAT then return {'newer', version, FORMAT} end
while version < FORMAT do
  migrations[version]()
  version = version + 1
end
call('HSET', meta, 'version', FORMAT)

local now = tonumber(ARGV[2])
if not now then
  local clock = call('TIME')
  now = tonumber(clock[1]) * 1e6 + tonumber(clock[2])
end
now = math.max(now, tonumber(call('HGET', meta, 'time') or 0))
call('HSET', meta, 'time', text(now))

local answer = operations[ARGV[1]](now)
if answer[1] == 'made' or answer[1] == 'done' then answer[#answer + 1] = known and 'known' or 'new' end
return answer
