-- One decision, or one charge after the fact, for one caller. All times are in sixteenths of a microsecond, whole
-- numbers that a double holds exactly; the clock is Redis's own, so that those of the replicas do not matter.
--
-- KEYS[1]  the caller
-- ARGV     weight; 1 to spend whatever room there is, else 0; how much more to take if there is room for the weight;
--          then interval and burst of each quota
-- returns  the quota that refuses, from 1, or 0; the wait for it; how much more was taken; then for each quota how far
--          ahead of now it is spent
local clock = redis.call('TIME')
local now = ((tonumber(clock[1]) - 1750000000) * 1000000 + tonumber(clock[2])) * 16
local weight, forced, more = tonumber(ARGV[1]), ARGV[2] == '1', tonumber(ARGV[3])

local held = {}
for word in string.gmatch(redis.call('GET', KEYS[1]) or '', '%S+') do
    held[#held + 1] = tonumber(word)
end

local refused, longest, owed, spent, furthest = 0, 0, {}, {}, 0
for quota = 1, (#ARGV - 3) / 2 do
    local interval, burst = tonumber(ARGV[quota * 2 + 2]), tonumber(ARGV[quota * 2 + 3])
    owed[quota] = math.max((held[quota] or now) - now, 0)
    spent[quota] = owed[quota] + interval * weight
    local wait = spent[quota] - interval * burst
    if wait > longest and not forced then
        refused, longest = quota, wait
    end
    more = math.min(more, math.floor(-wait / interval))
end

if refused == 0 then
    more = math.max(more, 0)
    for quota = 1, #spent do
        spent[quota] = spent[quota] + tonumber(ARGV[quota * 2 + 2]) * more
        furthest = math.max(furthest, spent[quota])
    end
    owed = spent
    if furthest > 0 then
        local words = {}
        for quota = 1, #spent do
            words[quota] = string.format('%.0f', now + spent[quota])
        end
        redis.call('SET', KEYS[1], table.concat(words, ' '), 'PX', string.format('%.0f', math.ceil(furthest / 16000) + 1))
    end
else
    more = 0
end
return {refused, longest, more, unpack(owed)}
