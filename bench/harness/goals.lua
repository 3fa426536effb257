-- SPDX-License-Identifier: MIT
-- Whether the goals of a workload are met. A goal is
--
--   {"limit", at_most = 1.25}   at most so many times another's time, or
--   {"node", faster = 2}        at least so many times as fast as another, or
--   {"peers", faster = 1}       the same for each peer that the workload has, the limit not counted

local peers = require "harness.peers"
local stats = require "harness.stats"

local goals = {}

-- Against one implementation: without a ratio where one side was not measured.
local function judge_one(goal, samples)
  local verdict = { against = goal[1], at_most = goal.at_most, faster = goal.faster,
    note = goal.note }
  local concur, other = samples.concur, samples[goal[1]]
  if concur and other and goal.at_most then
    verdict.ratio = stats.ratio(concur, other)
    verdict.met = verdict.ratio.median <= goal.at_most
  elseif concur and other then
    verdict.ratio = stats.ratio(other, concur)
    verdict.met = verdict.ratio.median >= goal.faster
  end
  return verdict
end

-- Against all peers: the ratio is that of the fastest. One that is behind misses the goal; it is met
-- only if all of them were measured.
local function judge_peers(goal, workload, samples)
  local verdict = { against = "peers", faster = goal.faster, unmeasured = {} }
  for _, name in ipairs(peers.order) do
    if peers.is_peer(name) and peers.has(workload, name) then
      local one = judge_one({ name, faster = goal.faster }, samples)
      if not one.ratio then
        table.insert(verdict.unmeasured, name)
      elseif not verdict.ratio or one.ratio.median < verdict.ratio.median then
        verdict.ratio, verdict.fastest, verdict.met = one.ratio, name, one.met
      end
    end
  end
  if verdict.met and #verdict.unmeasured > 0 then
    verdict.met = nil
  end
  return verdict
end

---@param workload table
---@param samples table<string, number[]> nanoseconds
---@return table[] verdicts for each goal {against, at_most or faster, ratio, met}; `met` is nil where it
---is not known. Against all peers also {fastest, unmeasured}.
function goals.judge(workload, samples)
  local verdicts = {}
  for i, goal in ipairs(workload.goals or {}) do
    verdicts[i] = goal[1] == "peers" and judge_peers(goal, workload, samples)
      or judge_one(goal, samples)
  end
  return verdicts
end

return goals
