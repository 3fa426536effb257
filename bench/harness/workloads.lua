-- SPDX-License-Identifier: MIT
-- Finds the workloads by name. A file in bench/workloads/ returns one, named like the file, or, where
-- the same work is measured in several sizes, a list of them; their names begin with the file's and
-- an underscore.

local workloads = {}

-- In the order of the report.
local FILES = {
  "sleep0_1",
  "sleep0_100",
  "spawn_result",
  "spawn_gather",
  "future_ready",
  "future_handoff",
  "queue",
  "lock_free",
  "lock_contended",
  "event",
  "timeout",
  "group",
  "sleepers",
  "thread_roundtrip",
  "thread_throughput",
  "process_roundtrip",
  "process_throughput",
  "transfer_table",
  "transfer_list",
  "transfer_string",
  "transfer_buffer",
  "fib",
  "echo",
  "startup",
}

-- Is `name` that, or that and more after an underscore?
local function begins_with(name, beginning)
  return name == beginning or name:sub(1, #beginning + 1) == beginning .. "_"
end

local function load_file(file)
  local loaded = dofile("bench/workloads/" .. file .. ".lua")
  if loaded.title then
    loaded.name = file
    return { loaded }
  end
  return loaded
end

---One workload; its file alone is loaded.
---@param name string
---@return table workload
function workloads.load(name)
  for _, file in ipairs(FILES) do
    if begins_with(name, file) then
      for _, workload in ipairs(load_file(file)) do
        if workload.name == name then
          return workload
        end
      end
    end
  end
  error("there is no workload '" .. name .. "'", 0)
end

---The workloads of these names, in the order of the report. A name may stand for all that begin with
---it: "echo" for nine, "echo_50" for three.
---@param names string[] none: every workload
---@return table[]? workloads nil: one of the names fits none
---@return string? unknown the name
function workloads.choose(names)
  local chosen, used = {}, {}
  local function wanted(workload)
    local fits = #names == 0
    for _, name in ipairs(names) do
      if begins_with(workload.name, name) then
        fits, used[name] = true, true
      end
    end
    return fits
  end
  for _, file in ipairs(FILES) do
    for _, workload in ipairs(load_file(file)) do
      if wanted(workload) then
        chosen[#chosen + 1] = workload
      end
    end
  end
  for _, name in ipairs(names) do
    if not used[name] then
      return nil, name
    end
  end
  return chosen
end

return workloads
