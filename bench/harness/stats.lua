-- SPDX-License-Identifier: MIT
-- What a run says about its samples.

local stats = {}

---@param list number[] not empty
---@return number
function stats.median(list)
  local sorted = table.move(list, 1, #list, 1, {})
  table.sort(sorted)
  local middle = #sorted // 2
  if #sorted % 2 == 1 then
    return sorted[middle + 1]
  end
  return (sorted[middle] + sorted[middle + 1]) / 2
end

---@param list number[] not empty
---@return {median: number, min: number, max: number}
function stats.summary(list)
  return {
    median = stats.median(list),
    min = math.min(table.unpack(list)),
    max = math.max(table.unpack(list)),
  }
end

---The ratio of two implementations, round by round: what the machine does to both cancels out.
---@param numerators number[] one for each round
---@param denominators number[] the same rounds
---@return {median: number, min: number, max: number}
function stats.ratio(numerators, denominators)
  local ratios = {}
  for i, numerator in ipairs(numerators) do
    ratios[i] = numerator / denominators[i]
  end
  return stats.summary(ratios)
end

return stats
