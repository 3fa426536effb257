-- SPDX-License-Identifier: MIT
-- The results for people: on the terminal, and as a table for docs/performance.md.

local peers = require "harness.peers"
local stats = require "harness.stats"

local report = {}

local function duration(ns)
  if ns >= 1e8 then
    return ("%.2f s"):format(ns / 1e9)
  elseif ns >= 1e5 then
    return ("%.2f ms"):format(ns / 1e6)
  elseif ns >= 1e4 then
    return ("%.1f µs"):format(ns / 1e3)
  end
  return (ns >= 100 and "%.0f ns" or "%.1f ns"):format(ns)
end

-- `text` at the right of `width` columns; the µ is two bytes.
local function right(text, width)
  return (" "):rep(width - (utf8.len(text) or #text)) .. text
end

-- The name of an implementation where there is little room.
local function short(name)
  return (name:gsub("_", " "))
end

local function wanted_by(verdict)
  if verdict.at_most then
    return ("at most %.2f x %s"):format(verdict.at_most, verdict.against)
  elseif verdict.against == "peers" and verdict.faster == 1 then
    return "ahead of every peer"
  end
  return ("%.2f x as fast as %s"):format(verdict.faster, verdict.against == "peers" and "every peer"
    or short(verdict.against))
end

-- "0.94 (0.90 to 0.97)", and against whom, if that is not said.
local function ratio_of(verdict)
  local ratio = verdict.ratio
  return ("%.2f (%.2f to %.2f)%s"):format(ratio.median, ratio.min, ratio.max,
    verdict.fastest and " x " .. short(verdict.fastest) or "")
end

-- Is the goal met? `met` and `missed` are the words for it.
local function outcome(verdict, met, missed)
  if verdict.met ~= nil then
    return verdict.met and met or missed
  end
  local names = {}
  for i, name in ipairs(verdict.unmeasured) do
    names[i] = short(name)
  end
  return "not measured against " .. table.concat(names, ", ")
end

local function describe_goal(verdict)
  if not verdict.ratio then
    return ("  goal: %s: not measured\n"):format(wanted_by(verdict))
  end
  return ("  goal: %s: %s, %s%s\n"):format(wanted_by(verdict), ratio_of(verdict),
    outcome(verdict, "met", "MISSED"), verdict.note and ", " .. verdict.note or "")
end

-- The same for a table in a document.
local function goal_cell(verdict)
  if not verdict.ratio then
    return wanted_by(verdict) .. ": not measured"
  end
  return ("%s: %s%s, %s"):format(wanted_by(verdict), verdict.at_most and "" or "is ",
    ratio_of(verdict), outcome(verdict, "**met**", "**missed**"))
end

-- The median time of an implementation; nil if it was not measured.
local function time_of(result, name)
  return result.samples[name] and duration(stats.median(result.samples[name]))
end

-- An implementation's time as a multiple of concur's; nil unless both were measured.
local function multiple_of(result, name)
  local samples = result.samples
  return samples[name] and samples.concur
    and ("%.2f"):format(stats.ratio(samples[name], samples.concur).median)
end

-- Those of the implementations but concur that took part in any of these rows.
local function columns(results, names)
  local used = {}
  for _, name in ipairs(names) do
    for _, result in ipairs(results) do
      if name ~= "concur" and result.samples[name] then
        used[#used + 1] = name
        break
      end
    end
  end
  return used
end

local function goals_met(result)
  local met = 0
  for _, verdict in ipairs(result.goals) do
    met = met + (verdict.met and 1 or 0)
  end
  return met
end

---Prints one workload's results: each implementation, then the goals.
---@param workload table
---@param names string[] implementations
---@param samples table<string, number[]> nanoseconds
---@param failed table<string, string> what those printed that failed
---@param verdicts table[]
function report.print_workload(workload, names, samples, failed, verdicts)
  local clock = workload.clock == "cpu" and "processor time" or "time"
  io.write(("\n%s    %s per %s\n"):format(workload.title, clock, workload.unit))
  for _, name in ipairs(names) do
    local title = "  " .. peers.titles[name]
    if samples[name] then
      local summary = stats.summary(samples[name])
      local ratio = ""
      if name ~= "concur" and samples.concur then
        ratio = ("%8.2f x concur"):format(stats.ratio(samples[name], samples.concur).median)
      end
      io.write(("%-18s %s  (%s to %s) %s\n"):format(title, right(duration(summary.median), 10),
        right(duration(summary.min), 10), right(duration(summary.max), 10), ratio))
    else
      io.write(("%-18s FAILED: %s\n"):format(title, failed[name]:match "[^\n]*\n?$"))
    end
  end
  for _, verdict in ipairs(verdicts) do
    io.write(describe_goal(verdict))
  end
  io.flush()
end

---Prints one line for each workload: concur in nanoseconds, the others as multiples of it.
---@param results table[]
---@param names string[] implementations
function report.print_summary(results, names)
  io.write("\nEverything as a multiple of concur's time (more is slower), goals met:\n\n")
  local used = columns(results, names)
  local function width(name)
    return math.max(8, #name + 1)
  end
  io.write(("%-24s %9s"):format("", "concur"))
  for _, name in ipairs(used) do
    io.write(right(short(name), width(name)))
  end
  io.write "   goals\n"
  for _, result in ipairs(results) do
    io.write(("%-24s %s"):format(result.title, right(time_of(result, "concur") or "-", 9)))
    for _, name in ipairs(used) do
      io.write(right(multiple_of(result, name) or "", width(name)))
    end
    io.write(("   %d of %d\n"):format(goals_met(result), #result.goals))
  end
end

-- The text in lines of at most 100 columns.
local function wrap(text)
  local lines = { "" }
  for word in text:gmatch "%S+" do
    local line = lines[#lines]
    if line == "" then
      lines[#lines] = word
    elseif #line + 1 + #word <= 100 then
      lines[#lines] = line .. " " .. word
    else
      lines[#lines + 1] = word
    end
  end
  return table.concat(lines, "\n")
end

---On what was measured, and how; for a document.
---@param machine table
---@param present table<string, string> implementation to version
---@param missing table<string, string> the others
---@param options {rounds: integer, seconds: number}
---@return string
function report.heading(machine, present, missing, options)
  local versions = {}
  for _, name in ipairs(peers.order) do
    if missing[name] and not peers.variant_of[name] then
      versions[#versions + 1] = peers.titles[name] .. " is missing"
    elseif peers.is_peer(name) and not peers.variant_of[name] then
      versions[#versions + 1] = peers.titles[name] .. " " .. present[name]:gsub("%s+$", "")
    end
  end
  return wrap(("%s processors (%s), %s, %s, libuv %s, %s; %s. %d rounds of %g seconds, on %s. The "
    .. "first column is concur's time, the others are multiples of it: 3 is three times as slow.")
    :format(machine.processors, machine.processor, machine.system, present.limit, machine.libuv,
      machine.compiler, table.concat(versions, ", "), options.rounds, options.seconds,
      machine.date:sub(1, 10)))
end

local function row(cells)
  return "| " .. table.concat(cells, " | ") .. " |"
end

---The summary as a table for a document, with the goals spelled out.
---@param results table[]
---@param names string[] implementations
---@return string
function report.markdown(results, names)
  local used = columns(results, names)
  local head, rule = { "workload", "concur" }, { "---", "--:" }
  for _, name in ipairs(used) do
    head[#head + 1], rule[#rule + 1] = short(name), "--:"
  end
  head[#head + 1], rule[#rule + 1] = "goal", "---"
  local lines = { row(head), row(rule) }
  for _, result in ipairs(results) do
    local cells = { result.title, time_of(result, "concur") or "" }
    for _, name in ipairs(used) do
      cells[#cells + 1] = multiple_of(result, name) or ""
    end
    local verdicts = {}
    for i, verdict in ipairs(result.goals) do
      verdicts[i] = goal_cell(verdict)
    end
    cells[#cells + 1] = table.concat(verdicts, "; ")
    lines[#lines + 1] = row(cells)
  end
  return table.concat(lines, "\n") .. "\n"
end

return report
