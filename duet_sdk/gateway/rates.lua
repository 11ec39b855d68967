-- Requests and tokens a minute, shared by the gateways of a ledger. KEYS[1] begins every key; all are in one slot.
-- ARGV: "take", count of windows, (name, most) for each, then the bucket's name or "", most, what it wants
--       "settle", the bucket's name, most, what is given back (below 0: taken on top)
-- Times are microseconds of the server, so that all processes share a clock.

local MINUTE = 60000000
local now = redis.call('TIME')
now = now[1] * 1000000 + now[2]

local function window_key(name) return KEYS[1] .. ':rate:requests:' .. name end
local function bucket_key(name) return KEYS[1] .. ':rate:tokens:' .. name end

local function level_of(name, most)
  local kept = redis.call('HMGET', bucket_key(name), 'level', 'at')
  if not kept[1] then return most end
  return math.min(most, tonumber(kept[1]) + math.max(0, now - tonumber(kept[2])) * most / MINUTE)
end

local function set_level(name, most, level)
  local key = bucket_key(name)
  redis.call('HSET', key, 'level', string.format('%.6f', level), 'at', string.format('%.0f', now))
  -- It is full again after that time, which is what a missing key means.
  redis.call('PEXPIRE', key, math.ceil((most - level) * 60000 / most) + 1000)
end

if ARGV[1] == 'settle' then
  local name, most = ARGV[2], tonumber(ARGV[3])
  set_level(name, most, math.min(most, level_of(name, most) + tonumber(ARGV[4])))
  return {}
end

local count = tonumber(ARGV[2])
for number = 1, count do
  local name, most = ARGV[1 + 2 * number], tonumber(ARGV[2 + 2 * number])
  local first = redis.call('LINDEX', window_key(name), most - 1)
  if first and tonumber(first) + MINUTE > now then
    return {name, string.format('%.0f', tonumber(first) + MINUTE - now)}
  end
end
local bucket, most, wants = ARGV[3 + 2 * count], tonumber(ARGV[4 + 2 * count]), tonumber(ARGV[5 + 2 * count])
if bucket ~= '' then
  local level = level_of(bucket, most)
  if level < wants then
    return {bucket, string.format('%.0f', math.ceil((wants - level) * MINUTE / most))}
  end
  set_level(bucket, most, level - wants)
end
for number = 1, count do
  local key, limit = window_key(ARGV[1 + 2 * number]), tonumber(ARGV[2 + 2 * number])
  redis.call('LPUSH', key, string.format('%.0f', now))
  redis.call('LTRIM', key, 0, limit - 1)
  redis.call('PEXPIRE', key, 60000)
end
return {}
