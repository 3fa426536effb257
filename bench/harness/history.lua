-- SPDX-License-Identifier: MIT
-- The ratios of the last run on this machine, and whether they are still the same: two runs agree in a
-- ratio when the median of one of them lies within the spread of the other.

local stats = require "harness.stats"

local history = {}

-- {["workload implementation"] = {median=, min=, max=}}; empty if the file is of another machine.
local function read(path, machine)
  local rows = {}
  local file <close> = io.open(path)
  if file and file:read "l" == machine then
    for line in file:lines() do
      local name, median, min, max = line:match "^(%S+ %S+) (%S+) (%S+) (%S+)$"
      rows[name or ""] = { median = tonumber(median), min = tonumber(min), max = tonumber(max) }
    end
  end
  return rows
end

local function write(path, machine, rows)
  local names = {}
  for name in pairs(rows) do
    names[#names + 1] = name
  end
  table.sort(names)
  local file <close> = assert(io.open(path, "w"))
  assert(file:write(machine, "\n"))
  for _, name in ipairs(names) do
    local row = rows[name]
    assert(file:write(("%s %.4f %.4f %.4f\n"):format(name, row.median, row.min, row.max)))
  end
end

local function within(value, spread)
  return value >= spread.min and value <= spread.max
end

---Stores the ratios to concur of this run.
---@param path string
---@param machine table
---@param results table[] of bench/run.lua
---@return string text says in which of them this run and the last one do not agree
function history.compare(path, machine, results)
  local name_of_machine = ("%s, %s processors, %s"):format(machine.processor, machine.processors,
    machine.system)
  local rows = read(path, name_of_machine)
  local agreed, moved = 0, {}
  for _, result in ipairs(results) do
    for name, samples in pairs(result.samples) do
      if name ~= "concur" and result.samples.concur then
        local key = result.name .. " " .. name
        local now, before = stats.ratio(samples, result.samples.concur), rows[key]
        if before and (within(now.median, before) or within(before.median, now)) then
          agreed = agreed + 1
        elseif before then
          moved[#moved + 1] = ("  %-18s %-15s was %.2f (%.2f to %.2f), is %.2f (%.2f to %.2f)")
            :format(result.name, name, before.median, before.min, before.max, now.median, now.min,
              now.max)
        end
        rows[key] = now
      end
    end
  end
  write(path, name_of_machine, rows)
  if agreed + #moved == 0 then
    return "Nothing to compare with: the first run of these on this machine, in this directory"
  end
  table.sort(moved)
  table.insert(moved, 1, ("Compared with the last run on this machine: %d ratios agree, %d do not")
    :format(agreed, #moved))
  return table.concat(moved, "\n")
end

return history
